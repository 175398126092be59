//! What the files of `src/` say, read from their syntax trees.
//!
//! Tests and code that only tests use are left out: whatever stands under `#[cfg(test)]`, files and
//! what lies below them as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{
    Arm, Attribute, Block, Expr, Field, FieldValue, File, Ident, ImplItem, ImplItemFn, Item,
    ItemFn, ItemMacro, ItemMod, ItemUse, Lit, Local, Macro, Meta, PatIdent, Signature, TraitItem,
    TraitItemFn, UseTree, Visibility,
};

use crate::support::repository;

/// A path in code, one name for each segment. A macro's name ends with "!".
pub(super) type Names = Vec<String>;

/// A file of `src/`.
#[derive(Debug)]
pub(super) struct Source {
    /// The path below `src/`, such as "hub/ring.rs".
    pub(super) path: String,
    /// The number of lines of the whole file, tests included.
    pub(super) lines: usize,
    /// The file's module, and those that stand in braces in it.
    pub(super) modules: Vec<Module>,
    pub(super) functions: Vec<Function>,
    pub(super) calls: Vec<MacroCall>,
    /// The names of the methods that are called.
    pub(super) methods: BTreeSet<String>,
    /// The modules that the file declares and other files hold, in order.
    pub(super) children: Vec<String>,
    /// The paths of the modules in other files that the file declares for tests alone.
    tests: Vec<Names>,
}

#[derive(Debug, Default)]
pub(super) struct Module {
    /// Its path from the crate's root: "hub", "ring".
    pub(super) name: Names,
    /// The names that it defines, save those that a macro's call expands to.
    pub(super) items: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    /// The paths in its code, save those of its imports, and local variables.
    pub(super) names: BTreeSet<Names>,
}

/// One name of a `use` declaration.
#[derive(Debug)]
pub(super) struct Import {
    /// The name that it has here; none for `*`.
    pub(super) alias: Option<String>,
    /// What is imported; for `*` the module or type.
    pub(super) path: Names,
    /// Whether it can be imported from here: `pub use`, with any visibility.
    pub(super) is_shared: bool,
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: String,
    /// From `fn` to the closing brace.
    pub(super) lines: usize,
}

#[derive(Debug)]
pub(super) struct MacroCall {
    pub(super) path: Names,
    /// The last argument that is a string.
    pub(super) message: Option<String>,
}

impl Source {
    /// The module of `lib.rs` to which it belongs.
    pub(super) fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// Every path in the code, as it is written: "crate::hub::Reader".
    pub(super) fn paths(&self) -> BTreeSet<String> {
        let modules = self.modules.iter();
        let paths = modules.flat_map(|module| {
            let imports = module.imports.iter().map(|import| &import.path);
            module.names.iter().chain(imports)
        });
        paths.map(|path| path.join("::")).collect()
    }

    pub(super) fn names(&self, prefix: &str) -> bool {
        let below = format!("{prefix}::");
        self.paths()
            .iter()
            .any(|path| path == prefix || path.starts_with(&below))
    }
}

/// Every source file except `main.rs` and `lib.rs`.
pub(super) fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
        let root = repository().join("src");
        let mut files = Vec::new();
        collect(&root, &mut files);
        files.sort();
        let read = files.iter().map(|file| {
            let path = file.strip_prefix(&root).expect("it lies below src");
            let text = fs::read_to_string(file).expect("a readable source file");
            read(&path.to_string_lossy().replace('\\', "/"), &text)
        });
        let mut sources: Vec<Source> = read.collect();
        let tests: Vec<Names> = sources.iter().flat_map(|it| it.tests.clone()).collect();
        sources.retain(|it| {
            let name = module_of(&it.path);
            let is_test = tests.iter().any(|test| name.starts_with(test));
            !is_test && it.path != "main.rs" && it.path != "lib.rs"
        });
        assert!(sources.len() > 50, "only {} files were read", sources.len());
        sources
    });
    &SOURCES
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// The modules of `lib.rs`, in order.
pub(super) fn modules() -> Vec<String> {
    let path = repository().join("src/lib.rs");
    let text = fs::read_to_string(path).expect("lib.rs");
    let modules = read("lib.rs", &text).children;
    assert!(modules.len() > 5, "{modules:?}");
    modules
}

/// Reads a file whose path below `src/` is `path`.
pub(super) fn read(path: &str, text: &str) -> Source {
    let file: File = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut reader = Reader {
        source: Source {
            path: path.to_owned(),
            lines: text.lines().count(),
            modules: Vec::new(),
            functions: Vec::new(),
            calls: Vec::new(),
            methods: BTreeSet::new(),
            children: Vec::new(),
            tests: Vec::new(),
        },
        module: Module::within(module_of(path)),
        variables: None,
    };
    reader.visit_file(&file);
    reader.source.modules.push(reader.module);
    reader.source
}

/// The module that the file at `path` holds.
fn module_of(path: &str) -> Names {
    let name = path.trim_end_matches(".rs");
    let name = name.strip_suffix("/mod").unwrap_or(name);
    match name {
        "lib" | "main" => Vec::new(),
        _ => name.split('/').map(str::to_owned).collect(),
    }
}

impl Module {
    fn within(name: Names) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    fn child(&self, name: &Ident) -> Names {
        let mut path = self.name.clone();
        path.push(name.to_string());
        path
    }
}

struct Reader {
    source: Source,
    /// The module that is being read.
    module: Module,
    /// The names of the variables in the function that is being read.
    variables: Option<BTreeSet<String>>,
}

impl Reader {
    fn name(&mut self, path: Names) {
        let is_variable = |name: &String| {
            let variables = self.variables.as_ref();
            variables.is_some_and(|variables| variables.contains(name))
        };
        match path.as_slice() {
            [] => {}
            [only] if is_variable(only) => {}
            [first, ..] if first == "Self" => {}
            _ => {
                self.module.names.insert(path);
            }
        }
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        let first = signature.fn_token.span.start().line;
        let last = block.brace_token.span.close().end().line;
        self.source.functions.push(Function {
            name: signature.ident.to_string(),
            lines: last - first + 1,
        });
    }

    /// Visits a function by `visit`, knowing its variables.
    fn within(&mut self, block: &Block, signature: &Signature, visit: impl FnOnce(&mut Self)) {
        self.function(signature, block);
        let is_outermost = self.variables.is_none();
        if is_outermost {
            let mut variables = Variables::default();
            variables.visit_signature(signature);
            variables.visit_block(block);
            self.variables = Some(variables.0);
        }
        visit(self);
        if is_outermost {
            self.variables = None;
        }
    }

    fn call(&mut self, mut path: Names, arguments: TokenStream) {
        let strings = arguments.clone().into_iter().filter_map(|token| {
            let TokenTree::Literal(literal) = token else {
                return None;
            };
            match Lit::new(literal) {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            }
        });
        self.source.calls.push(MacroCall {
            path: path.clone(),
            message: strings.last(),
        });
        if let Some(last) = path.last_mut() {
            last.push('!');
        }
        self.name(path);
        self.tokens(arguments);
    }

    /// Finds the paths, calls of macros and calls of methods in what a macro is given. A single name
    /// counts when it is that of a type, a constant, or a function that is called; elsewhere it may be
    /// a field's or a variable's.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, sign: char| match tokens.get(at) {
            Some(TokenTree::Punct(punct)) => punct.as_char() == sign,
            _ => false,
        };
        let group = |at: usize| match tokens.get(at) {
            Some(TokenTree::Group(group)) => Some(group),
            _ => None,
        };
        let mut at = 0;
        while at < tokens.len() {
            let start = at;
            at += 1;
            let mut path = match &tokens[start] {
                TokenTree::Ident(first) => vec![first.to_string()],
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    continue;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => continue,
            };
            while is(at, ':')
                && is(at + 1, ':')
                && let Some(TokenTree::Ident(next)) = tokens.get(at + 2)
            {
                path.push(next.to_string());
                at += 3;
            }
            let follows = |sign| start > 0 && is(start - 1, sign);
            let is_called =
                group(at).is_some_and(|group| group.delimiter() == Delimiter::Parenthesis);
            if is(at, '!')
                && let Some(arguments) = group(at + 1)
            {
                self.call(path, arguments.stream());
                at += 2;
            } else if follows('.') {
                // Not the end of a range.
                if is_called && !(start > 1 && is(start - 2, '.')) {
                    self.source.methods.insert(path.remove(0));
                }
            } else if follows('$') {
                // "$crate" is the crate; other names are parameters of the macro.
                if path[0] == "crate" {
                    self.name(path);
                }
            } else if follows('\'') || (follows(':') && start > 1 && is(start - 2, ':')) {
                // A lifetime, and the rest of a path that began with "<…>" or "::".
            } else if path.len() > 1 || path[0].starts_with(char::is_uppercase) || is_called {
                self.name(path);
            }
        }
    }

    fn import(&mut self, tree: &UseTree, mut path: Names, is_shared: bool) {
        let (alias, path) = match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                return self.import(&tree.tree, path, is_shared);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path.clone(), is_shared);
                }
                return;
            }
            UseTree::Glob(_) => (None, path),
            UseTree::Name(name) => {
                if name.ident != "self" {
                    path.push(name.ident.to_string());
                }
                (path.last().cloned(), path)
            }
            UseTree::Rename(renamed) => {
                if renamed.ident != "self" {
                    path.push(renamed.ident.to_string());
                }
                (Some(renamed.rename.to_string()), path)
            }
        };
        self.module.imports.push(Import {
            alias,
            path,
            is_shared,
        });
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, defined) = head(item);
        if are_of_tests(attributes) {
            if let Item::Mod(module) = item
                && module.content.is_none()
            {
                self.source.tests.push(self.module.child(&module.ident));
            }
            return;
        }
        if let Some(name) = defined {
            self.module.items.insert(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let Some((_, items)) = &item.content else {
            self.source.children.push(item.ident.to_string());
            return;
        };
        let inner = Module::within(self.module.child(&item.ident));
        let outer = std::mem::replace(&mut self.module, inner);
        for item in items {
            self.visit_item(item);
        }
        let inner = std::mem::replace(&mut self.module, outer);
        self.source.modules.push(inner);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        // "::name" is another crate's.
        if item.leading_colon.is_none() {
            let is_shared = !matches!(item.vis, Visibility::Inherited);
            self.import(&item.tree, Vec::new(), is_shared);
        }
    }

    fn visit_item_macro(&mut self, item: &'ast ItemMacro) {
        match item.ident {
            Some(_) => self.tokens(item.mac.tokens.clone()),
            None => self.visit_macro(&item.mac),
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.within(&item.block, &item.sig, |it| visit::visit_item_fn(it, item));
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => panic!("{}: an unknown kind of item", self.source.path),
        };
        if !are_of_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.within(&item.block, &item.sig, |it| {
            visit::visit_impl_item_fn(it, item);
        });
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let attributes = match item {
            TraitItem::Const(item) => &item.attrs,
            TraitItem::Fn(item) => &item.attrs,
            TraitItem::Type(item) => &item.attrs,
            TraitItem::Macro(item) => &item.attrs,
            _ => panic!("{}: an unknown kind of item", self.source.path),
        };
        if !are_of_tests(attributes) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        match &item.default {
            Some(block) => self.within(block, &item.sig, |it| {
                visit::visit_trait_item_fn(it, item);
            }),
            None => visit::visit_trait_item_fn(self, item),
        }
    }

    fn visit_field(&mut self, field: &'ast Field) {
        if !are_of_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, field: &'ast FieldValue) {
        if !are_of_tests(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        if !are_of_tests(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if !are_of_tests(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    /// Attributes name code too: `#[arg(value_parser = parse)]`, `#[serde(with = "module")]`.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        match &attribute.meta {
            Meta::List(list) => {
                self.tokens(list.tokens.clone());
                for token in list.tokens.clone() {
                    if list.path.is_ident("serde")
                        && let TokenTree::Literal(literal) = token
                        && let Lit::Str(text) = Lit::new(literal)
                        && let Ok(path) = text.parse::<syn::Path>()
                    {
                        self.visit_path(&path);
                    }
                }
            }
            Meta::NameValue(pair) => self.visit_expr(&pair.value),
            _ => {}
        }
    }

    /// `pub(in crate::hub)` says who may name an item, and names none.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        // "::name" is another crate's.
        if path.leading_colon.is_none() {
            self.name(segments(path));
        }
        visit::visit_path(self, path);
    }

    /// In a pattern, a name in capitals is a constant or a variant.
    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        let name = pattern.ident.to_string();
        if name.starts_with(char::is_uppercase) {
            self.name(vec![name]);
        }
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.call(segments(&call.path), call.tokens.clone());
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        if let Expr::MethodCall(call) = expression {
            self.source.methods.insert(call.method.to_string());
        }
        visit::visit_expr(self, expression);
    }
}

/// The names of all variables.
#[derive(Default)]
struct Variables(BTreeSet<String>);

impl<'ast> Visit<'ast> for Variables {
    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        let name = pattern.ident.to_string();
        if !name.starts_with(char::is_uppercase) {
            self.0.insert(name);
        }
        visit::visit_pat_ident(self, pattern);
    }
}

fn segments(path: &syn::Path) -> Names {
    path.segments
        .iter()
        .map(|it| it.ident.to_string())
        .collect()
}

/// The attributes of an item, and the name that it defines in its module.
fn head(item: &Item) -> (&[Attribute], Option<String>) {
    let (attributes, name) = match item {
        Item::Const(item) => (&item.attrs, Some(&item.ident)),
        Item::Enum(item) => (&item.attrs, Some(&item.ident)),
        Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
        Item::Static(item) => (&item.attrs, Some(&item.ident)),
        Item::Struct(item) => (&item.attrs, Some(&item.ident)),
        Item::Trait(item) => (&item.attrs, Some(&item.ident)),
        Item::TraitAlias(item) => (&item.attrs, Some(&item.ident)),
        Item::Type(item) => (&item.attrs, Some(&item.ident)),
        Item::Union(item) => (&item.attrs, Some(&item.ident)),
        Item::ExternCrate(item) => (&item.attrs, None),
        Item::ForeignMod(item) => (&item.attrs, None),
        Item::Impl(item) => (&item.attrs, None),
        Item::Mod(item) => (&item.attrs, None),
        Item::Use(item) => (&item.attrs, None),
        Item::Macro(item) => {
            let name = item.ident.as_ref();
            return (&item.attrs, name.map(|name| format!("{name}!")));
        }
        _ => panic!("an unknown kind of item"),
    };
    (attributes, name.map(Ident::to_string))
}

/// Whether what has these attributes is compiled for tests alone: `#[cfg(test)]`, `#[cfg(all(test, unix))]`.
fn are_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => needs_test(list.tokens.clone()),
        _ => false,
    })
}

fn needs_test(condition: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = condition.into_iter().collect();
    match tokens.as_slice() {
        [TokenTree::Ident(name)] => name == "test",
        [TokenTree::Ident(name), TokenTree::Group(group), ..] if name == "all" => {
            let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
            let conditions =
                tokens.split(|token| matches!(token, TokenTree::Punct(it) if it.as_char() == ','));
            conditions
                .into_iter()
                .any(|condition| needs_test(condition.iter().cloned().collect()))
        }
        _ => false,
    }
}
