//! The change stream that an `aggregate` asks for, on a stand-in that behaves as a server of a
//! version.

use mongodb::bson::{Bson, Document};

use super::event::{Enrichment, Entry, NOOP};
use super::{ServerError, Version, condition};

/// The operations that only `showExpandedEvents` shows.
const EXPANDED: [&str; 10] = [
    "create",
    "createIndexes",
    "dropIndexes",
    "modify",
    "shardCollection",
    "reshardCollection",
    "refineCollectionShardKey",
    "endOfTransaction",
    "startIndexBuild",
    "abortIndexBuild",
];

/// The namespaces of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Collection { database: String, name: String },
    Database(String),
    Deployment,
}

/// A stage after `$changeStream`.
#[derive(Debug, Clone)]
enum Stage {
    /// Conditions that must all hold for the enriched event.
    Match(Vec<Document>),
    Project(Document),
}

/// A change stream.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    scope: Scope,
    options: Document,
    /// The conditions that MongoDB moves to the oplog scan, before events are enriched.
    scan: Vec<Document>,
    stages: Vec<Stage>,
    version: Version,
}

impl Pipeline {
    /// Reads an `aggregate`; `None` if it is about no change stream.
    pub fn parse(command: &Document, version: &Version) -> Result<Option<Self>, ServerError> {
        let stages = command.get_array("pipeline").map(Vec::as_slice);
        let mut stages = stages
            .unwrap_or_default()
            .iter()
            .filter_map(Bson::as_document);
        let options = stages
            .next()
            .map(|stage| stage.get_document("$changeStream"));
        let Some(Ok(options)) = options else {
            return Ok(None);
        };
        for option in options.keys() {
            version.check_option(option)?;
        }
        let database = command.get_str("$db").unwrap_or_default().to_owned();
        let scope = match command.get_str("aggregate") {
            Ok(name) => Scope::Collection {
                database,
                name: name.to_owned(),
            },
            Err(_) if database == "admin" => Scope::Deployment,
            Err(_) => Scope::Database(database),
        };
        let for_cluster = options.get_bool("allChangesForCluster").unwrap_or(false);
        if (scope == Scope::Deployment) != for_cluster {
            return Err(ServerError::new(72).named("InvalidOptions").message(
                "A $changeStream with 'allChangesForCluster:true' may only be opened on the \
                 'admin' database, and with no collection name",
            ));
        }
        let mut pipeline = Self {
            scope,
            options: options.clone(),
            scan: Vec::new(),
            stages: Vec::new(),
            version: version.clone(),
        };
        for stage in stages {
            pipeline.add(stage)?;
        }
        Ok(Some(pipeline))
    }

    fn add(&mut self, stage: &Document) -> Result<(), ServerError> {
        let (name, value) = stage.iter().next().ok_or_else(|| unknown_stage(""))?;
        match (name.as_str(), value) {
            ("$match", Bson::Document(condition)) => {
                let (before, after) = condition::split(condition);
                // Past a stage that changes events, nothing moves to the scan.
                if self.stages.iter().all(|it| matches!(it, Stage::Match(_))) {
                    self.scan.extend(before);
                    self.stages.push(Stage::Match(after));
                } else {
                    self.stages.push(Stage::Match(vec![condition.clone()]));
                }
            }
            ("$project", Bson::Document(fields)) => {
                self.stages.push(Stage::Project(fields.clone()));
            }
            ("$changeStreamSplitLargeEvent", _) if self.version.has_split_stage() => {}
            (name, _) => return Err(unknown_stage(name)),
        }
        Ok(())
    }

    pub fn options(&self) -> &Document {
        &self.options
    }

    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Returns whether the scan passes an entry of the oplog on, to be enriched.
    pub fn scans(&self, entry: &Entry) -> Result<bool, ServerError> {
        let expanded = self.options.get_bool("showExpandedEvents").unwrap_or(false);
        let hidden =
            entry.operation() == NOOP || EXPANDED.contains(&entry.operation()) && !expanded;
        if hidden || !self.covers(entry) {
            return Ok(false);
        }
        let Some(event) = &entry.event else {
            return Ok(true);
        };
        for condition in &self.scan {
            if !condition::holds(condition, event)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn covers(&self, entry: &Entry) -> bool {
        let to = entry
            .event
            .as_ref()
            .and_then(|it| it.get_document("to").ok());
        let to = to.and_then(|to| Some((to.get_str("db").ok()?, to.get_str("coll").ok()?)));
        match &self.scope {
            Scope::Collection { database, name } => {
                let is_own = entry.log == *name || entry.also_in.contains(name);
                let of_database = entry.operation() == "dropDatabase";
                entry.database == *database && (is_own || of_database)
                    || to == Some((database, name))
            }
            Scope::Database(database) => {
                entry.database == *database || to.is_some_and(|(it, _)| it == database)
            }
            Scope::Deployment => true,
        }
    }

    /// Returns whether an event ends this stream with an `invalidate`.
    pub fn is_invalidated_by(&self, entry: &Entry) -> bool {
        let ends = match &self.scope {
            Scope::Collection { .. } => {
                matches!(entry.operation(), "drop" | "rename" | "dropDatabase")
            }
            Scope::Database(_) => entry.operation() == "dropDatabase",
            Scope::Deployment => false,
        };
        ends && self.covers(entry)
    }

    /// Enriches an event and applies the stages. `None` if a stage drops it.
    ///
    /// # Errors
    /// The error of an event that can't be enriched as the stream asks.
    pub fn event(&self, entry: &Entry) -> Result<Option<Vec<u8>>, ServerError> {
        if let Some((when, error)) = &entry.failing
            && self.fails_at(*when)
        {
            return Err(error.clone());
        }
        match &entry.event {
            None => Ok(Some(entry.bytes.clone())),
            Some(event) => self.apply(self.enriched(event)),
        }
    }

    /// Applies the stages to an event. `None` if one drops it.
    fn apply(&self, mut event: Document) -> Result<Option<Vec<u8>>, ServerError> {
        for stage in &self.stages {
            match stage {
                Stage::Match(conditions) => {
                    for condition in conditions {
                        if !condition::holds(condition, &event)? {
                            return Ok(None);
                        }
                    }
                }
                Stage::Project(fields) => project(&mut event, fields),
            }
        }
        Ok(Some(super::reply::bytes_of(&event)))
    }

    /// Returns whether an entry gives the stream an event to enrich, or ends it.
    pub fn concerns(&self, entry: &Entry) -> Result<bool, ServerError> {
        Ok(self.is_invalidated_by(entry) || self.scans(entry)?)
    }

    /// Applies the conditions of the scan and the stages to an `invalidate`. `None` if one drops it.
    pub fn invalidation(&self, event: Document) -> Result<Option<Vec<u8>>, ServerError> {
        for condition in &self.scan {
            if !condition::holds(condition, &event)? {
                return Ok(None);
            }
        }
        self.apply(event)
    }

    fn fails_at(&self, enrichment: Enrichment) -> bool {
        let after = self.options.get_str("fullDocument").unwrap_or_default();
        let before = self.options.get_str("fullDocumentBeforeChange");
        let before = before.unwrap_or_default();
        match enrichment {
            Enrichment::LookUp => after == "updateLookup",
            Enrichment::AnyImage => asks_for(after) || asks_for(before),
            Enrichment::RequiredPostImage => after == "required",
            Enrichment::RequiredPreImage => before == "required",
            Enrichment::WholeEvent => !self.stages.iter().any(|stage| match stage {
                Stage::Project(fields) => !shows(fields, "fullDocument"),
                Stage::Match(_) => false,
            }),
        }
    }

    /// The event with what the options ask for.
    fn enriched(&self, event: &Document) -> Document {
        let mut event = event.clone();
        let option = |name| self.options.get_str(name).unwrap_or_default();
        let operation = event
            .get_str("operationType")
            .unwrap_or_default()
            .to_owned();
        if operation == "update" && !asks_for(option("fullDocument")) {
            event.remove("fullDocument");
        }
        if !asks_for(option("fullDocumentBeforeChange")) {
            event.remove("fullDocumentBeforeChange");
        }
        let expanded = self.options.get_bool("showExpandedEvents").unwrap_or(false)
            || self.version.always_sends_expanded_fields();
        if !expanded {
            event.remove("collectionUUID");
            if operation == "rename" {
                event.remove("operationDescription");
            }
            if let Ok(update) = event.get_document_mut("updateDescription") {
                update.remove("disambiguatedPaths");
            }
        }
        event
    }
}

/// Returns whether the value of an image option asks for the image.
fn asks_for(option: &str) -> bool {
    !matches!(option, "" | "default" | "off")
}

/// Returns whether a projection keeps a field of the event.
fn shows(fields: &Document, name: &str) -> bool {
    let truth = |value: &Bson| !matches!(value, Bson::Int32(0) | Bson::Boolean(false));
    let includes = fields
        .iter()
        .any(|(key, value)| key != "_id" && truth(value));
    match fields.get(name) {
        Some(value) => truth(value),
        None => name == "_id" || !includes,
    }
}

fn project(event: &mut Document, fields: &Document) {
    let names: Vec<String> = event.keys().cloned().collect();
    for name in names {
        if !shows(fields, &name) {
            event.remove(&name);
        }
    }
}

fn unknown_stage(name: &str) -> ServerError {
    ServerError::new(40324).message(format!("Unrecognized pipeline stage name: '{name}'"))
}
