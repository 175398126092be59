//! The policy file: YAML, in which unknown keys and invalid values are errors.

use std::{collections::BTreeSet, sync::Arc};

use bytesize::ByteSize;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    access::Limits,
    filter_template::FilterTemplate,
    hidden_path,
    patterns::{NamespacePattern, PrincipalPattern},
    rule::{ClaimRequirement, Rule, RuleFilter},
};
use crate::{
    auth::CERTIFICATE_CLAIMS,
    model::{FieldMask, FullDocument, Operation},
    yaml,
};

/// The supported version of the file.
const VERSION: u64 = 1;

const MAX_RULES: usize = 1_000;
/// The maximum length of any list in a rule.
const MAX_ITEMS: usize = 1_000;
const MAX_NAME_BYTES: usize = 100;

/// The operations that `all` grants. Their events carry no more than documents and the watched namespace.
const GRANTED_BY_ALL: [Operation; 6] = [
    Operation::Insert,
    Operation::Update,
    Operation::Replace,
    Operation::Delete,
    Operation::Drop,
    Operation::DropDatabase,
];

/// All values of `full_document`, with their names in the file.
pub const FULL_DOCUMENTS: [(FullDocument, &str); 4] = [
    (FullDocument::Default, "default"),
    (FullDocument::UpdateLookup, "update_lookup"),
    (FullDocument::WhenAvailable, "when_available"),
    (FullDocument::Required, "required"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    version: u64,
    rules: Vec<RuleConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    name: String,
    #[serde(default, deserialize_with = "yaml::non_null")]
    principals: Option<Vec<String>>,
    #[serde(default, deserialize_with = "yaml::mapping")]
    claims: Option<Map<String, Value>>,
    namespaces: Vec<String>,
    #[serde(default, deserialize_with = "yaml::non_null")]
    operations: Option<Vec<String>>,
    #[serde(default, deserialize_with = "yaml::non_null")]
    full_document: Option<Vec<String>>,
    #[serde(default)]
    pre_images: bool,
    #[serde(default, deserialize_with = "yaml::value")]
    filter: Option<Value>,
    #[serde(default, deserialize_with = "yaml::non_null")]
    hide: Option<Vec<String>>,
    #[serde(default, deserialize_with = "yaml::non_null")]
    limits: Option<LimitsConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsConfig {
    #[serde(default, deserialize_with = "yaml::non_null")]
    watches: Option<usize>,
    #[serde(default, deserialize_with = "yaml::non_null")]
    watch_rate: Option<u32>,
    #[serde(default, deserialize_with = "yaml::non_null")]
    byte_rate: Option<ByteSize>,
}

/// Parses a policy. `tokens_encrypted` says whether resume tokens are encrypted.
///
/// # Errors
/// Names the location, the problem and the correct form.
pub(super) fn read(bytes: &[u8], tokens_encrypted: bool) -> Result<Vec<Rule>, String> {
    let file: PolicyFile = yaml::read(bytes)?;
    if file.version != VERSION {
        return Err(format!(
            "version: is {}: use {VERSION}, the only version that this server reads",
            file.version
        ));
    }
    check_count("rules", (file.rules.len(), "rules"), 0, MAX_RULES)?;
    let mut names = BTreeSet::new();
    let mut rules = Vec::with_capacity(file.rules.len());
    for (index, config) in file.rules.into_iter().enumerate() {
        let at = format!("rules[{index}]");
        let name_bytes = config.name.len();
        check_count(
            &format!("{at}.name"),
            (name_bytes, "bytes"),
            1,
            MAX_NAME_BYTES,
        )?;
        if !names.insert(config.name.clone()) {
            return Err(format!(
                "{at}.name: {:?} is the name of an earlier rule: give each rule its own name",
                config.name
            ));
        }
        let name = config.name.clone();
        let rule = config.into_rule(&at, tokens_encrypted);
        rules.push(rule.map_err(|problem| format!("{problem} (rule {name:?})"))?);
    }
    Ok(rules)
}

impl RuleConfig {
    fn into_rule(self, at: &str, tokens_encrypted: bool) -> Result<Rule, String> {
        let principals = self.principals.as_deref();
        let principals = principals
            .map(|it| parse_list(&format!("{at}.principals"), it, PrincipalPattern::parse));
        let namespaces = parse_list(
            &format!("{at}.namespaces"),
            &self.namespaces,
            NamespacePattern::parse,
        )?;
        let filter = self.filter.as_ref();
        let filter = filter
            .map(|it| FilterTemplate::parse(&format!("{at}.filter"), it))
            .transpose()?;
        if filter.is_some() && !tokens_encrypted {
            return Err(format!(
                "{at}.filter: requires --token-key-file, because MongoDB's resume tokens contain document keys, also of documents that the filter excludes"
            ));
        }
        let hide = self.hide.as_deref();
        let field_mask = parse_field_mask(&format!("{at}.hide"), hide, tokens_encrypted)?;
        let principals = principals.transpose()?;
        let claims = parse_claims(&format!("{at}.claims"), self.claims)?;
        check_claims_exist(at, principals.as_deref(), &claims, filter.as_ref())?;
        Ok(Rule {
            principals,
            claims,
            namespaces,
            operations: parse_operations(
                &format!("{at}.operations"),
                self.operations.as_deref(),
                &field_mask,
                filter.is_some(),
            )?,
            full_document: parse_full_document(
                &format!("{at}.full_document"),
                self.full_document.as_deref(),
                filter.is_some(),
            )?,
            pre_images: self.pre_images,
            filter: filter.map(RuleFilter::new),
            field_mask,
            limits: self
                .limits
                .map(|it| it.into_limits(&format!("{at}.limits"), &self.name))
                .transpose()?,
            name: self.name,
        })
    }
}

fn check_count(
    at: &str,
    (count, unit): (usize, &str),
    min: usize,
    max: usize,
) -> Result<(), String> {
    if (min..=max).contains(&count) {
        return Ok(());
    }
    Err(format!("{at}: has {count} {unit}: use {min} to {max}"))
}

fn check_limit(at: &str, limit: usize, max: usize) -> Result<(), String> {
    if limit <= max {
        return Ok(());
    }
    Err(format!(
        "{at}: is {limit}: use 0 for no limit, or up to {max}"
    ))
}

/// Parses each entry of a list, which must not be empty.
fn parse_list<T>(
    at: &str,
    entries: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    check_count(at, (entries.len(), "entries"), 1, MAX_ITEMS)?;
    let each = entries.iter().enumerate();
    each.map(|(index, text)| read(text).map_err(|problem| format!("{at}[{index}]: {problem}")))
        .collect()
}

fn parse_claims(
    at: &str,
    entries: Option<Map<String, Value>>,
) -> Result<Vec<(String, ClaimRequirement)>, String> {
    let Some(entries) = entries else {
        return Ok(Vec::new());
    };
    check_count(at, (entries.len(), "entries"), 1, MAX_ITEMS)?;
    let any = Value::String("*".to_owned());
    let mut claims = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let at = format!("{at}.{name}");
        if value == any {
            claims.push((name, ClaimRequirement::Present));
            continue;
        }
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        check_count(&at, (values.len(), "values"), 1, MAX_ITEMS)?;
        for value in &values {
            let problem = match value {
                Value::Bool(_) | Value::Number(_) => continue,
                Value::String(text) if text.is_empty() => {
                    "is empty, and empty claims never match: name a value, or use \"*\" for any"
                }
                // Wildcards are not supported here, but would look as if they were.
                Value::String(text) if text.contains('*') => {
                    "contains *, which is not a wildcard here: use \"*\" alone to match any value"
                }
                Value::String(_) => continue,
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    "is not a string, number or boolean: use one, or a list of them"
                }
            };
            return Err(format!("{at}: {problem}"));
        }
        claims.push((name, ClaimRequirement::OneOf(values)));
    }
    Ok(claims)
}

fn parse_operations(
    at: &str,
    names: Option<&[String]>,
    field_mask: &FieldMask,
    has_filter: bool,
) -> Result<BTreeSet<Operation>, String> {
    let Some(names) = names else {
        return Ok(Operation::DOCUMENT.into());
    };
    let granted = parse_list(at, names, |name| {
        if name == "all" {
            return Ok(GRANTED_BY_ALL.to_vec());
        }
        let mut operations = Operation::ALL.into_iter();
        let found = operations.find(|it| it.name() == name && *it != Operation::Invalidate);
        let Some(operation) = found else {
            let names = Operation::ALL.map(Operation::name).join(", ");
            let names = names.replace("invalidate, ", "");
            return Err(format!(
                "unknown operation {name:?}: use one of {names}, or all"
            ));
        };
        if may_name_fields(operation) && field_mask.hides_fields() {
            return Err(format!(
                "{name} events carry a description that may name hidden fields: a rule with hide can't grant them"
            ));
        }
        if operation == Operation::Other && has_filter {
            return Err(format!(
                "{name} stands for operations that this version does not know, whose documents a filter can't check: a rule with a filter can't grant it"
            ));
        }
        Ok(vec![operation])
    })?;
    Ok(granted.into_iter().flatten().collect())
}

/// Returns whether events of an operation may name fields outside of documents.
fn may_name_fields(operation: Operation) -> bool {
    (operation.needs_expanded() && operation != Operation::EndOfTransaction)
        || operation == Operation::Other
}

/// Parses the granted values of `full_document`. An update lookup returns the current document, but a filter
/// must evaluate the event with the document of its own time. So a rule with a filter grants lookups only by
/// name.
fn parse_full_document(
    at: &str,
    names: Option<&[String]>,
    has_filter: bool,
) -> Result<Vec<FullDocument>, String> {
    let Some(names) = names else {
        let granted = FULL_DOCUMENTS.into_iter().map(|(it, _)| it);
        return Ok(granted
            .filter(|it| !has_filter || *it != FullDocument::UpdateLookup)
            .collect());
    };
    parse_list(at, names, |name| {
        let known = FULL_DOCUMENTS.into_iter().find(|(_, it)| *it == name);
        let names = FULL_DOCUMENTS.map(|(_, it)| it).join(", ");
        known
            .map(|(it, _)| it)
            .ok_or_else(|| format!("unknown value {name:?}: use one of {names}"))
    })
}

fn parse_field_mask(
    at: &str,
    entries: Option<&[String]>,
    tokens_encrypted: bool,
) -> Result<FieldMask, String> {
    let Some(entries) = entries else {
        return Ok(FieldMask::default());
    };
    let paths = parse_list(at, entries, hidden_path::parse)?;
    if !tokens_encrypted {
        return Err(format!(
            "{at}: requires --token-key-file, because MongoDB's resume tokens contain document keys, which may contain hidden fields"
        ));
    }
    FieldMask::hiding(paths).map_err(|problem| format!("{at}: {problem}"))
}

/// Checks that callers to whom the rule applies may have the claims that it names: a claim that nobody has
/// keeps the rule from ever deciding, so that a later one does.
fn check_claims_exist(
    at: &str,
    principals: Option<&[PrincipalPattern]>,
    claims: &[(String, ClaimRequirement)],
    filter: Option<&FilterTemplate>,
) -> Result<(), String> {
    let required = claims.iter().map(|(name, _)| ("claims", name.as_str()));
    let inserted = filter.map(FilterTemplate::claims).unwrap_or_default();
    let named = required.chain(inserted.into_iter().map(|name| ("filter", name)));
    for (key, name) in named {
        if name.trim() != name || name.is_empty() || name.contains(char::is_control) {
            return Err(format!(
                "{at}.{key}: the claim {name:?} is empty, or has control characters or white space at an end, as no claim does: write {:?}",
                name.trim()
            ));
        }
        if principals.is_some_and(|all| !all.iter().any(|it| it.may_have_claim(name))) {
            return Err(format!(
                "{at}.{key}: none of the principals can have the claim {name:?}: anonymous callers have none, and certificates only {}",
                CERTIFICATE_CLAIMS.join(", ")
            ));
        }
    }
    Ok(())
}

impl LimitsConfig {
    fn into_limits(self, at: &str, rule: &str) -> Result<Limits, String> {
        if self.watches.is_none() && self.watch_rate.is_none() && self.byte_rate.is_none() {
            return Err(format!(
                "{at}: is empty: name watches, watch_rate or byte_rate, or remove limits"
            ));
        }
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        check_limit(
            &format!("{at}.watches"),
            self.watches.unwrap_or(0),
            1_000_000,
        )?;
        check_limit(
            &format!("{at}.watch_rate"),
            count(self.watch_rate.unwrap_or(0)),
            100_000,
        )?;
        let bytes = self.byte_rate.unwrap_or_default();
        if bytes.as_u64() > 0 && !(ByteSize::kib(64)..=ByteSize::tib(1)).contains(&bytes) {
            return Err(format!(
                "{at}.byte_rate: is {bytes}: use 0 for no limit, or 64KiB to 1TiB"
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
