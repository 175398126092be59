//! Which file of `src/` depends on which, and the circles among them.
//!
//! A file depends on another if its code names an item that the other defines: in a path, or by an
//! import. Imports are followed to where the item is defined, through `pub use`, other names and `*`. What
//! a module only passes on is no dependency of it, nor is a child that it only declares. A file whose module
//! passes on another crate's item defines it for the rest.
//!
//! Only what is named counts: the type of a value that a method returns may stay unnamed, and so may
//! the file in which the method is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source::{Import, Module, Names, Source};

/// For each file the files on which it depends, with the items that it names of each.
pub(super) type Graph<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<String>>>;

/// The dependencies between `sources`.
pub(super) fn dependencies(sources: &[Source]) -> Graph<'_> {
    let crate_ = Crate::new(sources);
    let mut graph = Graph::new();
    for source in sources {
        let needed = graph.entry(source.path.as_str()).or_default();
        for module in &source.modules {
            let imports = module.imports.iter().filter(|it| !it.is_shared);
            let paths = module.names.iter().chain(imports.map(|it| &it.path));
            for found in paths.flat_map(|path| crate_.resolve(&module.name, path)) {
                if let Found::Item { file, name } = found
                    && file != source.path
                {
                    needed.entry(file).or_default().insert(name);
                }
            }
        }
    }
    graph
}

/// What a path leads to.
#[derive(Debug, Clone)]
enum Found<'a> {
    Module(Names),
    Item {
        file: &'a str,
        name: String,
    },
    /// An item of another crate.
    Foreign,
}

/// All modules, by name.
struct Crate<'a>(BTreeMap<&'a [String], (&'a str, &'a Module)>);

/// The names whose imports are being followed, each with its module.
type Lookups = BTreeSet<(Names, String)>;

impl<'a> Crate<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let modules = sources.iter().flat_map(|source| {
            let modules = source.modules.iter();
            modules.map(|module| (module.name.as_slice(), (source.path.as_str(), module)))
        });
        Self(modules.collect())
    }

    /// What `path` leads to in the code of the module `here`; nothing for a name that the module does not
    /// know, such as one of the prelude. It may be several things: a module and a function can share a name.
    fn resolve(&self, here: &[String], path: &[String]) -> Vec<Found<'a>> {
        self.follow(here, path, &mut Lookups::new())
    }

    fn follow(&self, here: &[String], path: &[String], lookups: &mut Lookups) -> Vec<Found<'a>> {
        let Some((first, mut rest)) = path.split_first() else {
            return Vec::new();
        };
        let mut found = match first.as_str() {
            "crate" => vec![Found::Module(Vec::new())],
            "self" => vec![Found::Module(here.to_vec())],
            "super" => {
                let mut module = here.len().saturating_sub(1);
                while rest.first().is_some_and(|it| it == "super") {
                    module = module.saturating_sub(1);
                    rest = &rest[1..];
                }
                vec![Found::Module(here[..module].to_vec())]
            }
            name => {
                let found = self.look_up(here, name, lookups);
                // A macro is known in the modules below it.
                match here.split_last() {
                    Some((_, parent)) if found.is_empty() && name.ends_with('!') => {
                        return self.follow(parent, path, lookups);
                    }
                    _ => found,
                }
            }
        };
        for name in rest {
            found = found
                .into_iter()
                .flat_map(|found| match found {
                    Found::Module(module) => self.member(&module, name, lookups),
                    // Its variant, constant or function.
                    item => vec![item],
                })
                .collect();
        }
        found
    }

    /// What `module::name` leads to. A name that the module's text does not define is a macro's work.
    fn member(&self, module: &[String], name: &str, lookups: &mut Lookups) -> Vec<Found<'a>> {
        let found = self.look_up(module, name, lookups);
        match self.0.get(module) {
            Some((file, _)) if found.is_empty() => vec![Found::Item {
                file,
                name: name.to_owned(),
            }],
            _ => found,
        }
    }

    fn look_up(&self, module: &[String], name: &str, lookups: &mut Lookups) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        let mut child = module.to_vec();
        child.push(name.to_owned());
        if self.0.contains_key(child.as_slice()) {
            found.push(Found::Module(child));
        }
        if let Some((file, own)) = self.0.get(module) {
            let item = Found::Item {
                file,
                name: name.to_owned(),
            };
            if own.items.contains(name) {
                found.push(item.clone());
            }
            // An import may lead to itself, as in `use open::open`.
            if lookups.insert((module.to_vec(), name.to_owned())) {
                let imports = own.imports.iter();
                for import in imports.filter(|it| it.alias.as_deref() == Some(name)) {
                    found.extend(self.imported(module, import, &item, lookups));
                }
                if found.is_empty() {
                    found = self.look_up_in_stars(module, own, name, lookups);
                }
                lookups.remove(&(module.to_vec(), name.to_owned()));
            }
        }
        found
    }

    /// What `name` leads to through an import of `*`.
    fn look_up_in_stars(
        &self,
        module: &[String],
        own: &Module,
        name: &str,
        lookups: &mut Lookups,
    ) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        for star in own.imports.iter().filter(|it| it.alias.is_none()) {
            for origin in self.follow(module, &star.path, lookups) {
                if let Found::Module(origin) = origin {
                    found.extend(self.look_up(&origin, name, lookups));
                }
            }
        }
        found
    }

    /// What is imported; `item` if that is another crate's and the module passes it on.
    fn imported(
        &self,
        module: &[String],
        import: &Import,
        item: &Found<'a>,
        lookups: &mut Lookups,
    ) -> Vec<Found<'a>> {
        let found = self.follow(module, &import.path, lookups);
        match found.as_slice() {
            [] if import.is_shared => vec![item.clone()],
            [] => vec![Found::Foreign],
            _ => found,
        }
    }
}

/// The groups of files in which each depends on each, directly or through others.
pub(super) fn groups<'a>(graph: &Graph<'a>) -> Vec<BTreeSet<&'a str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|file| (*file, ways(graph, file).into_keys().collect()))
        .collect();
    let groups: BTreeSet<BTreeSet<&str>> = reached
        .iter()
        .filter(|(file, reached)| reached.contains(*file))
        .map(|(file, needed)| {
            let back = needed.iter().filter(|it| reached[*it].contains(file));
            back.copied().collect()
        })
        .collect();
    groups.into_iter().collect()
}

/// For each file that `from` reaches, the one before it on a shortest way.
fn ways<'a>(graph: &Graph<'a>, from: &'a str) -> BTreeMap<&'a str, &'a str> {
    let mut before = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(file) = queue.pop_front() {
        for needed in graph[file].keys() {
            if !before.contains_key(needed) {
                before.insert(*needed, file);
                queue.push_back(needed);
            }
        }
    }
    before
}

/// A shortest circle through files of `group`, in words: "a.rs names Item of b.rs, …".
pub(super) fn shortest_circle(graph: &Graph<'_>, group: &BTreeSet<&str>) -> String {
    let circles = group.iter().map(|start| {
        let before = ways(graph, start);
        let mut circle = vec![*start];
        let mut file = before[start];
        while file != *start {
            circle.push(file);
            file = before[file];
        }
        circle.push(start);
        circle.reverse();
        circle
    });
    let circle = circles.min_by_key(Vec::len).unwrap_or_default();
    let steps = circle.windows(2).map(|step| {
        let items: Vec<&str> = graph[step[0]][step[1]].iter().map(String::as_str).collect();
        format!("{} names {} of {}", step[0], items.join(", "), step[1])
    });
    steps.collect::<Vec<_>>().join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::super::source::read;
    use super::*;

    /// The dependencies between made-up files: "a.rs: Item of b.rs".
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(path, text)| read(path, text)).collect();
        let mut found = Vec::new();
        for (file, needed) in dependencies(&sources) {
            for (other, items) in needed {
                found.extend(
                    items
                        .iter()
                        .map(|item| format!("{file}: {item} of {other}")),
                );
            }
        }
        found
    }

    #[test]
    fn an_item_is_named_by_a_path_from_the_root_or_by_an_import() {
        let b = ("b.rs", "pub struct Item; pub fn call() {}");
        for code in [
            "use crate::b::Item;",
            "use crate::{b::{Item as Other}};",
            "use crate::b; fn f(_: b::Item) {}",
            "use crate::b::{self as other}; fn f(_: other::Item) {}",
            "use crate::b::*; fn f(_: Vec<Item>) {}",
            "fn f() { let _ = crate::b::Item::new(); }",
            "fn f() { if let crate::b::Item = g() {} }",
            "mod inner { fn f() { let _ = super::super::b::Item; } }",
            "fn f() { assert!(g(crate::b::Item)); }",
            "use crate::b::*; fn f() { assert!(g(Item { a: 1 })); }",
            "#[serde(with = \"crate::b::Item\")] struct A;",
            "#[arg(value_parser = crate::b::Item)] struct A;",
            "impl crate::b::Item {}",
        ] {
            assert_eq!(
                found(&[("a.rs", code), b]),
                ["a.rs: Item of b.rs"],
                "{code}"
            );
        }
        for code in [
            "use crate::b::*; fn f() { assert!(call()); }",
            "use crate::b::*; fn f() { call(); }",
        ] {
            assert_eq!(
                found(&[("a.rs", code), b]),
                ["a.rs: call of b.rs"],
                "{code}"
            );
        }
    }

    #[test]
    fn what_only_looks_like_an_item_is_none() {
        let b = ("b.rs", "pub struct Item; pub fn call() {}");
        for code in [
            "use crate::b::*; fn f(call: u8) -> u8 { call }",
            "use crate::b::*; fn f() { g().call(); }",
            "use crate::b::*; fn f() { assert!(g().call()); }",
            "use crate::b::*; fn f() { info!(call = 1, call); }",
            "use ::b::Item; fn f(_: other::b::Item) {}",
            "use other::Item; use crate::b::*; fn f(_: Item) {}",
            "/// [`crate::b::Item`]\nstruct A; // crate::b::Item",
            "const A: &str = \"crate::b::Item\";",
            "pub(in crate::b) struct A;",
            "use crate::b;",
            "#[cfg(test)] use crate::b::Item;",
            "#[cfg(all(test, unix))] mod tests { use crate::b::Item; }",
            "impl A { #[cfg(test)] fn f(_: crate::b::Item) {} }",
        ] {
            assert!(found(&[("a.rs", code), b]).is_empty(), "{code}");
        }
    }

    #[test]
    fn parents_and_children_name_each_other() {
        let parent = "mod child; struct Parent(child::Child);";
        let child = "pub struct Child; fn f(_: super::Parent) {}";
        let both = [
            "a/child.rs: Parent of a/mod.rs",
            "a/mod.rs: Child of a/child.rs",
        ];
        assert_eq!(found(&[("a/mod.rs", parent), ("a/child.rs", child)]), both);

        let sibling = "fn f(_: super::child::Child, _: self::Own) {} struct Own;";
        let files = [
            ("a.rs", "mod child; mod sibling;"),
            ("a/child.rs", "pub struct Child;"),
        ];
        let files = [files[0], files[1], ("a/sibling.rs", sibling)];
        assert_eq!(found(&files), ["a/sibling.rs: Child of a/child.rs"]);
    }

    #[test]
    fn a_name_that_is_passed_on_is_followed_to_its_file() {
        for passed_on in [
            "mod child; pub use child::Child;",
            "mod child; pub(crate) use self::child::{Child};",
            "mod child; pub use child::*;",
            "mod child; mod other { pub use super::child::Child; } pub use other::Child;",
        ] {
            let child = ("a/child.rs", "pub struct Child;");
            let user = ("b.rs", "use crate::a::Child;");
            let files = [("a/mod.rs", passed_on), child, user];
            assert_eq!(found(&files), ["b.rs: Child of a/child.rs"], "{passed_on}");
        }
        // The parent needs it only where its own code names it.
        let parent = "mod child; pub use child::Child as Renamed; fn f(_: Renamed) {}";
        let files = [("a.rs", parent), ("a/child.rs", "pub struct Child;")];
        assert_eq!(found(&files), ["a.rs: Child of a/child.rs"]);
    }

    #[test]
    fn a_childs_star_finds_its_parents_items_and_imports() {
        let parent = "mod child; use crate::b::Item; use std::sync::Arc; struct Own;";
        let child = "use super::*; fn f(_: Item, _: Own, _: Arc<String>) {}";
        let files = [
            ("a.rs", parent),
            ("a/child.rs", child),
            ("b.rs", "pub struct Item;"),
        ];
        let expected = [
            "a.rs: Item of b.rs",
            "a/child.rs: Own of a.rs",
            "a/child.rs: Item of b.rs",
        ];
        assert_eq!(found(&files), expected);
    }

    #[test]
    fn a_passed_on_item_of_another_crate_belongs_to_the_file_that_passes_it_on() {
        let files = [
            ("a.rs", "use crate::b::Mutex;"),
            ("b.rs", "pub use std::sync::Mutex;"),
        ];
        assert_eq!(found(&files), ["a.rs: Mutex of b.rs"]);
    }

    #[test]
    fn macros_are_items_and_what_they_expand_to_belongs_to_their_call() {
        let a = "macro_rules! make { ($name:ident) => { const $name: $crate::b::Item = 1; } } make!(MADE); mod child;";
        let child = "fn f() { make!(OTHER); let _ = super::MADE; }";
        let files = [
            ("a.rs", a),
            ("a/child.rs", child),
            ("b.rs", "pub struct Item;"),
        ];
        let expected = [
            "a.rs: Item of b.rs",
            "a/child.rs: MADE of a.rs",
            "a/child.rs: make! of a.rs",
        ];
        assert_eq!(found(&files), expected);
    }

    #[test]
    fn a_function_may_have_the_name_of_its_module() {
        let parent = "mod open; pub use open::open;";
        let files = [
            ("a.rs", parent),
            ("a/open.rs", "pub fn open() {}"),
            ("b.rs", "use crate::a::open;"),
        ];
        assert_eq!(found(&files), ["b.rs: open of a/open.rs"]);
    }

    #[test]
    fn each_group_has_a_shortest_circle() {
        let sources = [
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "use crate::c::C; use crate::d::D; pub struct B;"),
            ("c.rs", "use crate::a::A; pub struct C;"),
            ("d.rs", "use crate::b::B; pub struct D;"),
            ("e.rs", "use crate::a::A; use crate::f::F; pub struct E;"),
            ("f.rs", "use crate::e::E; pub struct F;"),
            ("g.rs", "use crate::a::A;"),
        ];
        let sources = sources.map(|(path, text)| read(path, text));
        let graph = dependencies(&sources);
        let groups = groups(&graph);
        assert_eq!(
            groups,
            [
                BTreeSet::from(["a.rs", "b.rs", "c.rs", "d.rs"]),
                BTreeSet::from(["e.rs", "f.rs"])
            ]
        );
        assert_eq!(
            shortest_circle(&graph, &groups[0]),
            "b.rs names D of d.rs\n    d.rs names B of b.rs"
        );
        assert_eq!(
            shortest_circle(&graph, &groups[1]),
            "e.rs names F of f.rs\n    f.rs names E of e.rs"
        );
    }
}
