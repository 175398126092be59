//! Update descriptions in MongoDB's form: how they apply to a document, and random ones.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document, bson, doc};

/// A component of a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Component {
    Field(String),
    Index(usize),
    /// A number in a dotted path: an index if there is an array, otherwise the name of a field.
    Number(String),
}

use Component::{Field, Index, Number};

/// Applies an update description to a document, as a client would.
pub fn apply(document: &Document, description: &Document) -> Document {
    let mut root = Bson::Document(document.clone());
    let known = description.get_document("disambiguatedPaths").ok();
    let components = |path: &str| components(path, known);
    for array in array(description, "truncatedArrays") {
        let array = array.as_document().expect("a truncated array");
        let path = components(array.get_str("field").expect("its path"));
        let size = match array.get("newSize") {
            Some(Bson::Int32(size)) => *size as usize,
            Some(Bson::Int64(size)) => *size as usize,
            other => panic!("{other:?} is no size"),
        };
        if let Some(Bson::Array(values)) = find(&mut root, &path) {
            values.truncate(size);
        }
    }
    for (path, value) in description.get_document("updatedFields").expect("fields") {
        set(&mut root, &components(path), value.clone());
    }
    for path in array(description, "removedFields") {
        let path = components(path.as_str().expect("a path"));
        let (last, above) = path.split_last().expect("a path has a component");
        if let Some(Bson::Document(document)) = find(&mut root, above) {
            document.remove(name(last));
        }
    }
    let Bson::Document(document) = root else {
        unreachable!("the root stays a document");
    };
    document
}

fn array(description: &Document, name: &str) -> Vec<Bson> {
    description.get_array(name).cloned().unwrap_or_default()
}

fn components(path: &str, known: Option<&Document>) -> Vec<Component> {
    if let Some(known) = known.and_then(|known| known.get_array(path).ok()) {
        let component = |it: &Bson| match it {
            Bson::String(name) => Field(name.clone()),
            Bson::Int32(index) => Index(*index as usize),
            Bson::Int64(index) => Index(*index as usize),
            other => panic!("{other} is no component"),
        };
        return known.iter().map(component).collect();
    }
    let is_number = |part: &str| part.bytes().all(|it| it.is_ascii_digit());
    let component = |part: &str| {
        if is_number(part) {
            Number(part.to_owned())
        } else {
            Field(part.to_owned())
        }
    };
    path.split('.').map(component).collect()
}

fn name(component: &Component) -> &str {
    match component {
        Field(name) | Number(name) => name,
        Index(_) => panic!("an index is no name"),
    }
}

fn index(component: &Component) -> usize {
    match component {
        Index(index) => *index,
        Field(number) | Number(number) => number.parse().expect("an index in an array"),
    }
}

fn find<'b>(value: &'b mut Bson, path: &[Component]) -> Option<&'b mut Bson> {
    path.iter().try_fold(value, |value, component| match value {
        Bson::Document(document) => document.get_mut(name(component)),
        Bson::Array(values) => values.get_mut(index(component)),
        _ => None,
    })
}

fn set(value: &mut Bson, path: &[Component], new: Bson) {
    let Some((first, rest)) = path.split_first() else {
        *value = new;
        return;
    };
    match value {
        Bson::Array(values) => {
            let at = index(first);
            if values.len() <= at {
                values.resize(at + 1, Bson::Null);
            }
            set(&mut values[at], rest, new);
        }
        Bson::Document(document) => {
            let name = name(first).to_owned();
            let field = document.entry(name).or_insert_with(|| doc! {}.into());
            set(field, rest, new);
        }
        other => panic!("{other} has no {first:?}"),
    }
}

/// A value without the order of its fields, which a delta says nothing about.
pub fn unordered(value: &Bson) -> Bson {
    match value {
        Bson::Document(document) => {
            let fields = document
                .iter()
                .map(|(name, value)| (name.clone(), unordered(value)));
            let sorted: BTreeMap<String, Bson> = fields.collect();
            Bson::Document(sorted.into_iter().collect())
        }
        Bson::Array(values) => values.iter().map(unordered).collect(),
        value => value.clone(),
    }
}

/// Random documents and updates. Every array has only documents and arrays, since a projection leaves other
/// values out of it, and no delta can say which index an element of the projected array then has; only fields
/// of the name `s`, below which no path leads, have other arrays.
pub struct Random {
    pub rng: fastrand::Rng,
    names: &'static [&'static str],
    path_names: &'static [&'static str],
}

/// A random update: what it sets and removes, and in which arrays, by path.
pub struct Update {
    pub after: Document,
    pub description: Document,
}

impl Random {
    /// Without ambiguous paths.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            names: &["a", "b", "c"],
            path_names: &["a", "b", "c"],
        }
    }

    /// With field names that are numbers or have dots.
    pub fn ambiguous(seed: u64) -> Self {
        Self {
            names: &["a", "b", "0", "1", "a.b", "a.0"],
            path_names: &["a", "b", "0", "1"],
            ..Self::new(seed)
        }
    }

    pub fn chance(&mut self, one_in: u32) -> bool {
        self.rng.u32(..one_in) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(..of.len())]
    }

    pub fn scalar(&mut self) -> Bson {
        match self.rng.u32(..4) {
            0 => Bson::Null,
            1 => "text".into(),
            _ => self.rng.i32(..1_000).into(),
        }
    }

    pub fn document(&mut self, depth: u32) -> Document {
        let mut document = Document::new();
        for _ in 0..self.rng.usize(1..5) {
            let name = self.pick(self.names);
            document.insert(name, self.value(depth));
        }
        if self.chance(3) {
            document.insert("s", self.anything());
        }
        document
    }

    pub fn value(&mut self, depth: u32) -> Bson {
        match self.rng.u32(..5) {
            0 | 1 if depth > 0 => self.document(depth - 1).into(),
            2 if depth > 0 => self.array(depth - 1),
            _ => self.scalar(),
        }
    }

    fn array(&mut self, depth: u32) -> Bson {
        let count = self.rng.usize(..4);
        Bson::Array((0..count).map(|_| self.element(depth)).collect())
    }

    fn element(&mut self, depth: u32) -> Bson {
        if depth > 0 && self.chance(4) {
            return self.array(depth - 1);
        }
        self.document(depth).into()
    }

    fn anything(&mut self) -> Bson {
        match self.rng.u32(..3) {
            0 => self.scalar(),
            1 => bson!([1, { "a": 2 }, [3, "x"]]),
            _ => bson!({ "a": [1, { "b": 2 }] }),
        }
    }

    /// Paths of which none is below another.
    pub fn paths(&mut self) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        for _ in 0..self.rng.usize(1..5) {
            let depth = self.rng.usize(1..4);
            let mut parts: Vec<&str> = (0..depth).map(|_| self.pick(self.path_names)).collect();
            if self.chance(6) {
                parts.push("s");
            }
            let path = parts.join(".");
            let below =
                |one: &str, other: &str| format!("{one}.").starts_with(&format!("{other}."));
            if !paths.iter().any(|it| below(it, &path) || below(&path, it)) {
                paths.push(path);
            }
        }
        paths
    }

    /// Updates a document at some places, none of which is below another.
    pub fn update(&mut self, before: &Document) -> Update {
        let (mut updated, mut removed) = (Document::new(), Vec::<Bson>::new());
        let (mut truncated, mut known) = (Vec::<Bson>::new(), Document::new());
        let mut taken: Vec<Vec<Component>> = Vec::new();
        for _ in 0..self.rng.usize(1..5) {
            let mut root = Bson::Document(before.clone());
            let (path, is_new) = self.place(&mut root);
            if taken
                .iter()
                .any(|it| it.starts_with(&path) || path.starts_with(it))
            {
                continue;
            }
            let dotted = dotted(&path);
            // Of paths that could be read in two ways, both would be one.
            if known.contains_key(&dotted) || updated.contains_key(&dotted) {
                continue;
            }
            let is_element = matches!(path.last(), Some(Index(_)));
            let is_last_s = matches!(path.last(), Some(Field(name)) if name == "s");
            let old = if is_new { None } else { find(&mut root, &path) };
            match old {
                Some(Bson::Array(values)) if !values.is_empty() && self.chance(2) => {
                    let size = self.rng.usize(..values.len());
                    truncated.push(doc! { "field": &dotted, "newSize": size as i32 }.into());
                }
                Some(_) if !is_element && self.chance(3) => removed.push(dotted.as_str().into()),
                _ if is_last_s => {
                    updated.insert(&dotted, self.anything());
                }
                _ if is_element => {
                    updated.insert(&dotted, self.element(1));
                }
                _ => {
                    updated.insert(&dotted, self.value(2));
                }
            }
            if self.path_names.contains(&"0") {
                let component = |it: &Component| match it {
                    Index(index) => Bson::from(*index as i32),
                    it => name(it).into(),
                };
                known.insert(dotted, path.iter().map(component).collect::<Vec<Bson>>());
            }
            taken.push(path);
        }
        let mut description = doc! {
            "updatedFields": updated, "removedFields": removed, "truncatedArrays": truncated,
        };
        if !known.is_empty() {
            description.insert("disambiguatedPaths", known);
        }
        Update {
            after: apply(before, &description),
            description,
        }
    }

    /// A random place: of a value, or `true` and a place where there is none yet.
    fn place(&mut self, root: &mut Bson) -> (Vec<Component>, bool) {
        let mut path = Vec::new();
        loop {
            let stop = !path.is_empty() && self.chance(3);
            let found = find(root, &path).expect("it is there").clone();
            match found {
                _ if stop => return (path, false),
                Bson::Document(document) => {
                    let names: Vec<&String> = document.keys().filter(|it| *it != "_id").collect();
                    let is_new = names.is_empty() || self.chance(4);
                    let name = if is_new {
                        self.pick(self.names).to_owned()
                    } else {
                        names[self.rng.usize(..names.len())].clone()
                    };
                    let is_new = is_new && !document.contains_key(&name);
                    let is_s = name == "s";
                    path.push(Field(name));
                    if is_new || is_s {
                        return (path, is_new);
                    }
                }
                Bson::Array(values) => {
                    let at = self.rng.usize(..=values.len());
                    path.push(Index(at));
                    if at == values.len() {
                        return (path, true);
                    }
                }
                _ => return (path, false),
            }
        }
    }
}

fn dotted(path: &[Component]) -> String {
    let part = |component: &Component| match component {
        Index(index) => index.to_string(),
        it => name(it).to_owned(),
    };
    path.iter().map(part).collect::<Vec<_>>().join(".")
}
