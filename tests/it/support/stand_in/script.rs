//! The language of the stand-in: what it answers to which command.
//!
//! ```ignore
//! // The next two openings that resume fail as in an election.
//! let election = stand_in.play(
//!     Rule::on("aggregate")
//!         .when(Request::resumes)
//!         .times(2)
//!         .answer(ServerError::new(189).named("PrimarySteppedDown")),
//! );
//! // ...
//! assert_eq!(election.count(), 2);
//! ```

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};

use super::Reply;

/// An error in MongoDB's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    code: i32,
    name: Option<String>,
    message: String,
    labels: Vec<String>,
}

impl ServerError {
    pub fn new(code: i32) -> Self {
        Self {
            code,
            name: None,
            message: "requested by the test".to_owned(),
            labels: Vec::new(),
        }
    }

    /// With this `codeName`; `Location` and the code by default.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// With this `errmsg`.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// With this error label too.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.labels.push(label.to_owned());
        self
    }

    /// The event is larger than MongoDB can send.
    pub fn too_large() -> Self {
        Self::new(10334).named("BSONObjectTooLarge").message(
            "BSONObj size: 33554611 (0x20000B3) is invalid. Size must be between 0 and \
             16793600(16MB) First element: _id: { _data: \"82\" }",
        )
    }

    /// A required pre- or post-image is missing.
    pub fn image_missing(image: &str) -> Self {
        Self::new(47).named("NoMatchingDocument").message(format!(
            "Change stream was configured to require a {image} for all update, delete and replace \
             events, but the {image} was not found for event: {{ _id: {{ _data: \"82\" }} }}"
        ))
    }

    /// The pipeline does not find the token.
    pub fn token_not_found() -> Self {
        Self::new(280)
            .named("ChangeStreamFatalError")
            .label("NonResumableChangeStreamError")
            .message(
                "cannot resume stream; the resume token was not found. {_data: \"82\"}: the resume \
                 token may have been issued by another pipeline",
            )
    }

    /// The place is older than the oplog.
    pub fn history_lost() -> Self {
        Self::new(286)
            .named("ChangeStreamHistoryLost")
            .label("NonResumableChangeStreamError")
            .message(
                "Resume of change stream was not possible, as the resume point may no longer be in \
                 the oplog.",
            )
    }

    /// A server that is no longer the primary, with the label that drivers resume on.
    pub fn stepped_down() -> Self {
        Self::new(189)
            .named("PrimarySteppedDown")
            .label("ResumableChangeStreamError")
            .message("operation was interrupted")
    }

    pub(super) fn document(&self) -> Document {
        let name = self.name.clone();
        doc! {
            "ok": 0.0,
            "code": self.code,
            "codeName": name.unwrap_or_else(|| format!("Location{}", self.code)),
            "errmsg": self.message.as_str(),
            "errorLabels": self.labels.as_slice(),
        }
    }
}

/// A change of a reply before it is encoded.
pub type Alteration = Arc<dyn Fn(&mut Reply) + Send + Sync>;

/// The answer to a command.
#[derive(Clone)]
pub enum Answer {
    /// The answer that the stand-in gives without a script.
    Usual,
    /// An error. A `getMore` that fails closes its cursor, as on a real server.
    Error(ServerError),
    /// The usual answer to an `aggregate` or a `getMore`, given at once and changed.
    Altered(Alteration),
    /// A reply to an `aggregate` or a `getMore` with these events, each as raw bytes, and this token
    /// after them; the usual token if `None`. The cursor stays where it is.
    Batch {
        events: Vec<Vec<u8>>,
        token: Option<Document>,
    },
    /// A reply with these bytes in place of its document.
    Document(Vec<u8>),
    /// These bytes in place of a whole message. The connection is closed afterwards.
    Message(Vec<u8>),
    /// The connection is closed without an answer.
    Close,
    /// No answer, and the connection stays open.
    Hang,
    /// An answer after a delay.
    Late(Duration, Box<Answer>),
}

impl Answer {
    /// The usual answer, given at once and changed.
    pub fn altered(alter: impl Fn(&mut Reply) + Send + Sync + 'static) -> Self {
        Self::Altered(Arc::new(alter))
    }

    /// An empty reply with this token, as a server sends it in the midst of a scan.
    pub fn nothing(token: Document) -> Self {
        Self::Batch {
            events: Vec::new(),
            token: Some(token),
        }
    }

    /// This answer after a delay.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self::Late(delay, Box::new(self))
    }
}

impl From<ServerError> for Answer {
    fn from(error: ServerError) -> Self {
        Self::Error(error)
    }
}

/// A command that a client sent.
#[derive(Debug, Clone)]
pub struct Request {
    name: String,
    command: Document,
    /// For a `getMore`, the `aggregate` that opened its cursor.
    opening: Option<Document>,
}

impl Request {
    pub(super) fn new(command: Document, opening: Option<Document>) -> Self {
        let name = command.keys().next().cloned().unwrap_or_default();
        Self {
            name,
            command,
            opening,
        }
    }

    /// The name of the command.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole command.
    pub fn command(&self) -> &Document {
        &self.command
    }

    /// The `aggregate` that opens or has opened the cursor.
    fn aggregate(&self) -> &Document {
        self.opening.as_ref().unwrap_or(&self.command)
    }

    /// The database of the command.
    pub fn database(&self) -> &str {
        self.command.get_str("$db").unwrap_or_default()
    }

    /// The collection of the change stream; `None` on a database or the deployment.
    pub fn collection(&self) -> Option<&str> {
        self.aggregate().get_str("aggregate").ok()
    }

    /// The stages of the pipeline, `$changeStream` included.
    pub fn stages(&self) -> impl Iterator<Item = &Document> {
        let stages = self.aggregate().get_array("pipeline");
        let stages = stages.map(Vec::as_slice).unwrap_or_default();
        stages.iter().filter_map(Bson::as_document)
    }

    /// An option of `$changeStream`.
    pub fn option(&self, name: &str) -> Option<&Bson> {
        self.options()?.get(name)
    }

    /// The options of `$changeStream`; `None` if this is about no change stream.
    pub fn options(&self) -> Option<&Document> {
        self.stages().next()?.get_document("$changeStream").ok()
    }

    /// Returns whether the stream has this option.
    pub fn has(&self, option: &str) -> bool {
        self.option(option).is_some()
    }

    /// Returns whether this is about a change stream.
    pub fn is_change_stream(&self) -> bool {
        self.options().is_some()
    }

    /// The token that the stream resumes after.
    pub fn token(&self) -> Option<&Document> {
        let token = self
            .option("resumeAfter")
            .or_else(|| self.option("startAfter"));
        token.and_then(Bson::as_document)
    }

    /// Returns whether the stream has a resume token.
    pub fn resumes(&self) -> bool {
        self.token().is_some()
    }

    /// Returns whether the stream looks up images.
    pub fn has_images(&self) -> bool {
        self.has("fullDocument") || self.has("fullDocumentBeforeChange")
    }

    /// The `batchSize` of this command.
    pub fn batch_size(&self) -> Option<i64> {
        let size = match self.command.get_document("cursor") {
            Ok(cursor) => cursor.get("batchSize"),
            Err(_) => self.command.get("batchSize"),
        }?;
        size.as_i64().or_else(|| size.as_i32().map(i64::from))
    }
}

type Predicate = Box<dyn Fn(&Request) -> bool + Send>;

/// An answer to the commands that match.
pub struct Rule {
    command: String,
    when: Predicate,
    /// The number of commands that are still to be answered; `None` is without end.
    left: Option<u64>,
    answer: Answer,
    /// The number of commands that it has answered.
    count: u64,
    number: u64,
}

impl Rule {
    /// A rule for every command of this name.
    pub fn on(command: &str) -> Self {
        Self {
            command: command.to_owned(),
            when: Box::new(|_| true),
            left: None,
            answer: Answer::Usual,
            count: 0,
            number: 0,
        }
    }

    /// Only when the command matches.
    #[must_use]
    pub fn when(self, matches: impl Fn(&Request) -> bool + Send + 'static) -> Self {
        let when = self.when;
        Self {
            when: Box::new(move |request| when(request) && matches(request)),
            ..self
        }
    }

    /// Only for a stream on this collection.
    #[must_use]
    pub fn of_collection(self, collection: &str) -> Self {
        let collection = collection.to_owned();
        self.when(move |request| request.collection() == Some(&collection))
    }

    /// For this many commands; the next rule or the usual answer applies afterwards.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self {
            left: Some(count),
            ..self
        }
    }

    /// For one command.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// With this answer.
    #[must_use]
    pub fn answer(self, answer: impl Into<Answer>) -> Self {
        Self {
            answer: answer.into(),
            ..self
        }
    }
}

/// The rules that are in force, in order.
#[derive(Default)]
pub(super) struct Script {
    rules: Vec<Rule>,
    /// The number of rules there have been.
    total: u64,
}

impl Script {
    /// Adds a rule after all others and returns its number.
    pub fn add(&mut self, rule: Rule) -> u64 {
        self.total += 1;
        let number = self.total;
        self.rules.push(Rule { number, ..rule });
        number
    }

    /// Ends a rule; its count remains.
    pub fn end(&mut self, number: u64) {
        for rule in &mut self.rules {
            if rule.number == number {
                rule.left = Some(0);
            }
        }
    }

    pub fn count(&self, number: u64) -> u64 {
        let rule = self.rules.iter().find(|rule| rule.number == number);
        rule.map_or(0, |rule| rule.count)
    }

    /// Returns whether a rule applies to a command.
    pub fn applies_to(&self, request: &Request) -> bool {
        self.rules.iter().any(|rule| rule.applies_to(request))
    }

    /// Takes the answer of the first rule that applies to a command.
    pub fn take(&mut self, request: &Request) -> Option<Answer> {
        let rule = self.rules.iter_mut().find(|it| it.applies_to(request))?;
        rule.count += 1;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        Some(rule.answer.clone())
    }
}

impl Rule {
    fn applies_to(&self, request: &Request) -> bool {
        self.left != Some(0) && self.command == request.name && (self.when)(request)
    }
}
