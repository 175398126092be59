//! The policy's file: YAML, of which every key is known and every value is checked.

use std::{collections::BTreeSet, sync::Arc};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{
    Limits,
    condition::Condition,
    names::{NamespacePattern, PrincipalPattern},
    rule::{Claimed, Rule},
};
use crate::plan::{FieldMask, FullDocument, Operation};

/// The version of the file that is read here.
const VERSION: u64 = 1;

const MAX_RULES: usize = 1_000;
/// Of any list in a rule.
const MAX_ITEMS: usize = 1_000;
const MAX_NAME_BYTES: usize = 100;
const MAX_DEPTH: usize = 32;

/// What `all` stands for: operations whose events tell of nothing but the documents and the namespace.
const ALL: [Operation; 6] = [
    Operation::Insert,
    Operation::Update,
    Operation::Replace,
    Operation::Delete,
    Operation::Drop,
    Operation::DropDatabase,
];

const FULL_DOCUMENTS: [(FullDocument, &str); 4] = [
    (FullDocument::Default, "default"),
    (FullDocument::UpdateLookup, "update_lookup"),
    (FullDocument::WhenAvailable, "when_available"),
    (FullDocument::Required, "required"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u64,
    rules: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    name: String,
    #[serde(default, deserialize_with = "present")]
    principals: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    claims: Option<Map<String, Value>>,
    namespaces: Vec<String>,
    #[serde(default, deserialize_with = "present")]
    operations: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    full_document: Option<Vec<String>>,
    #[serde(default)]
    pre_images: bool,
    #[serde(default, deserialize_with = "present")]
    filter: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    hide: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    limits: Option<LimitsText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsText {
    #[serde(default, deserialize_with = "present")]
    watches: Option<usize>,
    #[serde(default, deserialize_with = "present")]
    watch_rate: Option<u32>,
    #[serde(default, deserialize_with = "present")]
    byte_rate: Option<ByteSize>,
}

/// A key that stands there with nothing behind it is not one that does not stand there: who has commented
/// out all that a rule was for has not meant it for everybody.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Reads a policy. `sealed` says whether resume tokens are encrypted.
///
/// # Errors
/// In words: the place, what is wrong there, and what would be right.
pub(super) fn read(bytes: &[u8], sealed: bool) -> Result<Vec<Rule>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))?;
    let budget = serde_saphyr::budget! {
        max_anchors: 0,
        max_aliases: 0,
        max_depth: MAX_DEPTH,
        max_documents: 1,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        strict_booleans: true,
        with_snippet: false,
    };
    let file: File =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!(
            "version: is {}; this version of the server reads {VERSION}",
            file.version
        ));
    }
    bounded("rules", file.rules.len(), 0, MAX_RULES)?;
    let mut names = BTreeSet::new();
    let mut rules = Vec::with_capacity(file.rules.len());
    for (index, text) in file.rules.into_iter().enumerate() {
        let at = format!("rules[{index}]");
        if !names.insert(text.name.clone()) {
            return Err(format!(
                "{at}.name: {:?} names an earlier rule too; each has a name of its own",
                text.name
            ));
        }
        rules.push(text.read(&at, sealed)?);
    }
    Ok(rules)
}

impl RuleText {
    fn read(self, at: &str, sealed: bool) -> Result<Rule, String> {
        let name_bytes = self.name.len();
        bounded(&format!("{at}.name"), name_bytes, 1, MAX_NAME_BYTES)?;
        let principals = self.principals.as_deref();
        let principals =
            principals.map(|it| list(&format!("{at}.principals"), it, PrincipalPattern::parse));
        let namespaces = list(
            &format!("{at}.namespaces"),
            &self.namespaces,
            NamespacePattern::parse,
        )?;
        let filter = self.filter.as_ref();
        let filter = filter
            .map(|it| Condition::parse(&format!("{at}.filter"), it))
            .transpose()?;
        if filter.is_some() && !sealed {
            return Err(format!(
                "{at}.filter: needs --token-key-file, as MongoDB's resume tokens hold document keys, those of documents that the filter does not show too"
            ));
        }
        let hidden = hidden(&format!("{at}.hide"), self.hide, sealed)?;
        Ok(Rule {
            principals: principals.transpose()?,
            claims: claims(&format!("{at}.claims"), self.claims)?,
            namespaces,
            operations: operations(
                &format!("{at}.operations"),
                self.operations.as_deref(),
                &hidden,
                filter.is_some(),
            )?,
            full_document: full_document(
                &format!("{at}.full_document"),
                self.full_document.as_deref(),
                filter.is_some(),
            )?,
            pre_images: self.pre_images,
            filter,
            hidden,
            limits: self
                .limits
                .map(|it| it.read(&format!("{at}.limits"), &self.name))
                .transpose()?,
            name: self.name,
        })
    }
}

fn bounded(at: &str, count: usize, min: usize, max: usize) -> Result<(), String> {
    if (min..=max).contains(&count) {
        return Ok(());
    }
    Err(format!("{at}: has {count}; right are {min} to {max}"))
}

/// Reads each of a list, which is not empty.
fn list<T>(
    at: &str,
    texts: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    bounded(at, texts.len(), 1, MAX_ITEMS)?;
    let each = texts.iter().enumerate();
    each.map(|(index, text)| read(text).map_err(|problem| format!("{at}[{index}]: {problem}")))
        .collect()
}

fn claims(at: &str, texts: Option<Map<String, Value>>) -> Result<Vec<(String, Claimed)>, String> {
    let Some(texts) = texts else {
        return Ok(Vec::new());
    };
    bounded(at, texts.len(), 1, MAX_ITEMS)?;
    let any = Value::String("*".to_owned());
    let mut claims = Vec::with_capacity(texts.len());
    for (name, value) in texts {
        let at = format!("{at}.{name}");
        if value == any {
            claims.push((name, Claimed::Anything));
            continue;
        }
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        bounded(&at, values.len(), 1, MAX_ITEMS)?;
        for value in &values {
            let problem = match value {
                Value::Bool(_) | Value::Number(_) => continue,
                Value::String(text) if text.is_empty() => "is empty, which no claim that counts is",
                // It is no pattern, and who writes one would take it for one.
                Value::String(text) if text.contains('*') => {
                    "holds *, which stands for any value alone, and in no list"
                }
                Value::String(_) => continue,
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    "is no text, number, true or false, nor a list of those"
                }
            };
            return Err(format!("{at}: {problem}"));
        }
        claims.push((name, Claimed::OneOf(values)));
    }
    Ok(claims)
}

fn operations(
    at: &str,
    names: Option<&[String]>,
    hidden: &FieldMask,
    filtered: bool,
) -> Result<BTreeSet<Operation>, String> {
    let Some(names) = names else {
        return Ok(Operation::DOCUMENT.into());
    };
    let granted = list(at, names, |name| {
        if name == "all" {
            return Ok(ALL.to_vec());
        }
        let mut known = Operation::ALL.into_iter();
        let known = known.find(|it| it.name() == name && *it != Operation::Invalidate);
        let Some(operation) = known else {
            let names = Operation::ALL.map(Operation::name).join(", ");
            let names = names.replace("invalidate, ", "");
            return Err(format!(
                "{name:?} is no operation; there are {names}, and all"
            ));
        };
        if describes(operation) && !hidden.is_empty() {
            return Err(format!(
                "{name} comes with a description that may name hidden fields; a rule that hides fields can't grant it"
            ));
        }
        if operation == Operation::Other && filtered {
            return Err(format!(
                "{name} is whatever MongoDB adds, which may hold a document in a place that is not known; a rule with a filter can't grant it"
            ));
        }
        Ok(vec![operation])
    })?;
    Ok(granted.into_iter().flatten().collect())
}

/// Whether an operation's events may name fields elsewhere than in documents.
fn describes(operation: Operation) -> bool {
    operation.needs_expanded() || operation == Operation::Other
}

/// The ways to ask for documents. A document that is looked up is of now, and what it shows of the event's
/// time a filter can't judge: with one, it is granted by name only.
fn full_document(
    at: &str,
    names: Option<&[String]>,
    filtered: bool,
) -> Result<Vec<FullDocument>, String> {
    let Some(names) = names else {
        let granted = FULL_DOCUMENTS.into_iter().map(|(it, _)| it);
        return Ok(granted
            .filter(|it| !filtered || *it != FullDocument::UpdateLookup)
            .collect());
    };
    list(at, names, |name| {
        let known = FULL_DOCUMENTS.into_iter().find(|(_, it)| *it == name);
        let names = FULL_DOCUMENTS.map(|(_, it)| it).join(", ");
        known
            .map(|(it, _)| it)
            .ok_or_else(|| format!("{name:?} is none of {names}"))
    })
}

fn hidden(at: &str, paths: Option<Vec<String>>, sealed: bool) -> Result<FieldMask, String> {
    let Some(paths) = paths else {
        return Ok(FieldMask::default());
    };
    bounded(at, paths.len(), 1, MAX_ITEMS)?;
    if !sealed {
        return Err(format!(
            "{at}: needs --token-key-file, as MongoDB's resume tokens hold document keys, which may hold hidden fields"
        ));
    }
    FieldMask::new(paths).map_err(|problem| format!("{at}: {problem}"))
}

impl LimitsText {
    fn read(self, at: &str, rule: &str) -> Result<Limits, String> {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        bounded(
            &format!("{at}.watches"),
            self.watches.unwrap_or(0),
            0,
            1_000_000,
        )?;
        bounded(
            &format!("{at}.watch_rate"),
            count(self.watch_rate.unwrap_or(0)),
            0,
            100_000,
        )?;
        let bytes = self.byte_rate.unwrap_or_default();
        if bytes.as_u64() > 0 && !(ByteSize::kib(64)..=ByteSize::tib(1)).contains(&bytes) {
            return Err(format!(
                "{at}.byte_rate: is {bytes}; right are 0, and 64KiB to 1TiB"
            ));
        }
        Ok(Limits {
            rule: Arc::from(rule),
            watches: self.watches,
            watch_rate: self.watch_rate,
            byte_rate: self.byte_rate.map(|it| it.as_u64()),
        })
    }
}
