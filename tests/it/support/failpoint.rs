//! Failures that the database makes on request, through its `failCommand` failpoint.

use std::time::Duration;

use mongodb::bson::{Document, doc};

/// The commands that fail, the way they fail and how often.
///
/// ```ignore
/// let fail = FailCommand::on(&["getMore"]).code(91).label("ResumableChangeStreamError").times(1);
/// database.fail(fail).await;
/// ```
#[derive(Debug, Clone)]
pub struct FailCommand {
    data: Document,
    labels: Vec<String>,
    mode: bson::Bson,
}

impl FailCommand {
    /// Makes these commands fail, every time until [`super::Database::clear_failures`]. The other methods say
    /// how.
    pub fn on(commands: &[&str]) -> Self {
        Self {
            data: doc! { "failCommands": commands.to_vec() },
            labels: Vec::new(),
            mode: "alwaysOn".into(),
        }
    }

    /// They return this error code and do nothing.
    #[must_use]
    pub fn code(mut self, code: i32) -> Self {
        self.data.insert("errorCode", code);
        self
    }

    /// The error carries this label.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.labels.push(label.to_owned());
        self
    }

    /// The server closes the connection instead of answering.
    #[must_use]
    pub fn close_connection(mut self) -> Self {
        self.data.insert("closeConnection", true);
        self
    }

    /// The answer is delayed by this much. It is the right answer, unless a code is set as well.
    #[must_use]
    pub fn block(mut self, duration: Duration) -> Self {
        let milliseconds = i64::try_from(duration.as_millis()).expect("a test's delay is short");
        self.data.insert("blockConnection", true);
        self.data.insert("blockTimeMS", milliseconds);
        self
    }

    /// Only the next `count` commands fail.
    #[must_use]
    pub fn times(mut self, count: i32) -> Self {
        self.mode = doc! { "times": count }.into();
        self
    }

    /// The first `skipped` commands succeed and the `count` after them fail. MongoDB supports only
    /// one of the two; the stand-in supports both.
    #[must_use]
    pub fn times_after(mut self, skipped: i32, count: i32) -> Self {
        self.mode = doc! { "skip": skipped, "times": count }.into();
        self
    }

    /// Only commands of clients with this `appName` fail, so that the test's own client is not
    /// affected.
    #[must_use]
    pub fn app_name(mut self, name: &str) -> Self {
        self.data.insert("appName", name);
        self
    }

    /// The command that arms the failpoint.
    pub(super) fn arm(self) -> Document {
        let mut data = self.data;
        if !self.labels.is_empty() {
            data.insert("errorLabels", self.labels);
        }
        doc! { "configureFailPoint": "failCommand", "mode": self.mode, "data": data }
    }

    /// The command that disarms the failpoint.
    pub(super) fn disarm() -> Document {
        doc! { "configureFailPoint": "failCommand", "mode": "off" }
    }
}
