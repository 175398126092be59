//! What a client's stage may contain.
//!
//! Names are checked wherever they are keys, also where MongoDB would take one as a field's name, as it does in
//! `$literal`: a rule without exceptions has none that can be bypassed. Of values only the variables of
//! MongoDB's user are refused. A string such as `"$where"` reads the field of that name.

use bson::{Bson, Document};

use crate::model::quoted;

/// The stages that MongoDB allows in a change stream, besides its own.
const STAGES: [&str; 8] = [
    "$match",
    "$project",
    "$addFields",
    "$set",
    "$unset",
    "$replaceRoot",
    "$replaceWith",
    "$redact",
];
const USE_STAGES: &str =
    "use $match, $project, $addFields, $set, $unset, $replaceRoot, $replaceWith or $redact";

/// The operators that run JavaScript in MongoDB.
const SCRIPTS: [&str; 3] = ["$where", "$function", "$accumulator"];

/// The stages that read or write anything but the event, or that start a stream or a pipeline of their own.
pub(super) const FOREIGN_STAGES: [&str; 36] = [
    "$lookup",
    "$graphLookup",
    "$unionWith",
    "$out",
    "$merge",
    "$mergeCursors",
    "$documents",
    "$queue",
    "$facet",
    "$geoNear",
    "$search",
    "$searchBeta",
    "$searchMeta",
    "$vectorSearch",
    "$rankFusion",
    "$scoreFusion",
    "$collStats",
    "$indexStats",
    "$planCacheStats",
    "$currentOp",
    "$listSessions",
    "$listLocalSessions",
    "$listSampledQueries",
    "$listSearchIndexes",
    "$listCatalog",
    "$listClusterCatalog",
    "$listMqlEntities",
    "$listExtensions",
    "$operationMetrics",
    "$querySettings",
    "$queryStats",
    "$sampledQueries",
    "$shardedDataDistribution",
    "$backupCursor",
    "$backupCursorExtend",
    "$setVariableFromSubPipeline",
];

/// The query operators that need an index, which a change stream does not have.
const INDEXED: [&str; 3] = ["$text", "$near", "$nearSphere"];

/// The variables that tell about Weir's own MongoDB user.
const USER_VARIABLE: &str = "$$USER_ROLES";

pub(super) const JAVASCRIPT: &str = "has JavaScript code, which a stage must not contain; use expression operators, such as $expr in a $match";

/// The longest path that is shown, in characters.
const MAX_PATH_CHARS: usize = 80;

/// Checks a stage, which is nested no deeper than MongoDB allows.
///
/// # Errors
/// A description of the first problem: where it is, what it is, and what is allowed.
pub(super) fn check(stage: &Document) -> Result<(), String> {
    let mut fields = stage.iter();
    let (Some((name, value)), None) = (fields.next(), fields.next()) else {
        return Err(format!(
            "has {} fields; a stage is a document with one field, its name: {USE_STAGES}",
            stage.len()
        ));
    };
    if !STAGES.contains(&name.as_str()) {
        return Err(format!(
            "is {}, which is not a stage that a watch may have; {USE_STAGES}",
            quoted(name)
        ));
    }
    let mut walk = Walk {
        path: vec![name.clone()],
    };
    if let Err(problem) = walk.value(value) {
        return Err(format!("at {}, {problem}", walk.path()));
    }
    shape(name, value)
        .map_err(|form| format!("has a {name} of another form than MongoDB takes; {form}"))
}

/// Checks what is certain about the form of a stage. MongoDB checks the rest.
fn shape(name: &str, value: &Bson) -> Result<(), String> {
    let is_document = matches!(value, Bson::Document(_));
    let good = match (name, value) {
        ("$match" | "$addFields" | "$set", _) => is_document,
        ("$project", Bson::Document(fields)) => !fields.is_empty(),
        ("$unset", Bson::String(path)) => !path.is_empty(),
        ("$unset", Bson::Array(paths)) => {
            let is_path = |it: &Bson| it.as_str().is_some_and(|path| !path.is_empty());
            !paths.is_empty() && paths.iter().all(is_path)
        }
        ("$replaceRoot", Bson::Document(options)) => {
            options.len() == 1 && options.get("newRoot").is_some_and(is_expression)
        }
        ("$replaceWith" | "$redact", _) => is_expression(value),
        _ => false,
    };
    if good {
        return Ok(());
    }
    Err(match name {
        "$match" => "write a query as a document, such as {\"$match\": {\"fullDocument.status\": \"paid\"}}",
        "$project" => "write a document with at least one field, such as {\"$project\": {\"fullDocument.card\": 0}}",
        "$unset" => "write a path, or a list of paths, such as {\"$unset\": [\"fullDocument.card\"]}",
        "$replaceRoot" => "write a document with newRoot alone, which is a document or an expression for one, such as {\"$replaceRoot\": {\"newRoot\": {\"_id\": \"$_id\", \"doc\": \"$fullDocument\"}}}",
        "$replaceWith" => "write a document or an expression for one, such as {\"$replaceWith\": {\"_id\": \"$_id\", \"doc\": \"$fullDocument\"}}",
        "$redact" => "write an expression for $$DESCEND, $$PRUNE or $$KEEP, such as {\"$redact\": {\"$cond\": [{\"$eq\": [\"$level\", 5]}, \"$$PRUNE\", \"$$DESCEND\"]}}",
        _ => "write a document, such as {\"$set\": {\"fullDocument.total\": {\"$multiply\": [\"$fullDocument.price\", 2]}}}",
    }
    .to_owned())
}

/// Returns whether a value may be an expression that gives a document or a variable.
fn is_expression(value: &Bson) -> bool {
    match value {
        Bson::Document(_) => true,
        Bson::String(text) => text.starts_with('$'),
        _ => false,
    }
}

/// A walk through all keys and values of a stage.
struct Walk {
    /// The keys and indexes of the value that the walk is at. After an error they point to the problem.
    path: Vec<String>,
}

impl Walk {
    fn value(&mut self, value: &Bson) -> Result<(), String> {
        match value {
            Bson::Document(fields) => {
                for (key, value) in fields {
                    self.path.push(key.clone());
                    check_name(key)?;
                    self.value(value)?;
                    self.path.pop();
                }
            }
            Bson::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.path.push(index.to_string());
                    self.value(item)?;
                    self.path.pop();
                }
            }
            Bson::JavaScriptCode(_) | Bson::JavaScriptCodeWithScope(_) => {
                return Err(JAVASCRIPT.to_owned());
            }
            Bson::String(text) if is_user_variable(text) => {
                return Err(format!(
                    "it reads {USER_VARIABLE}, which is about Weir's own MongoDB user; leave it out"
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the path to the problem; of a long one its end.
    fn path(&self) -> String {
        let path = self.path.join(".");
        let chars = path.chars().count();
        match path
            .char_indices()
            .nth(chars.saturating_sub(MAX_PATH_CHARS))
        {
            Some((start, _)) if start > 0 => format!("...{:?}", &path[start..]),
            _ => format!("{path:?}"),
        }
    }
}

fn is_user_variable(text: &str) -> bool {
    let rest = text.strip_prefix(USER_VARIABLE);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn check_name(name: &str) -> Result<(), String> {
    let quoted = quoted(name);
    if SCRIPTS.contains(&name) {
        return Err(format!(
            "{quoted} would run JavaScript in MongoDB; use expression operators, such as $expr in a $match"
        ));
    }
    if name.starts_with("$_") {
        return Err(format!(
            "{quoted} is one of MongoDB's internal operators; use a documented one"
        ));
    }
    if FOREIGN_STAGES.contains(&name) || name.starts_with("$changeStream") {
        return Err(format!(
            "{quoted} is a stage that is not about the event alone; it must not stand anywhere in a stage: {USE_STAGES}"
        ));
    }
    if INDEXED.contains(&name) {
        return Err(format!(
            "{quoted} needs an index, which a change stream does not have; use other query operators"
        ));
    }
    Ok(())
}
