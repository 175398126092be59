//! A change stream of the driver's, to compare Weir's events with.

use futures::StreamExt as _;
use mongodb::bson::{Document, RawDocumentBuf, bson};
use mongodb::change_stream::ChangeStream;

use crate::support::{Database, within};

/// A change stream of the whole deployment.
pub struct DriverStream(ChangeStream<RawDocumentBuf>);

impl DriverStream {
    /// Opens a stream from now on.
    pub async fn of(database: &Database, expanded: bool) -> Self {
        let stream = database
            .client()
            .watch()
            .show_expanded_events(expanded)
            .await
            .expect("a change stream of the deployment");
        Self(stream.with_type())
    }

    /// The next `count` events, without the token.
    pub async fn next(&mut self, count: usize) -> Vec<Document> {
        let mut events = Vec::new();
        for _ in 0..count {
            let event = within("the next event of the driver", self.0.next()).await;
            let event = event.expect("the stream continues").expect("an event");
            let mut event = Document::try_from(event).expect("an event is BSON");
            event.remove("_id");
            // MongoDB documents empty and missing as the same.
            if let Ok(description) = event.get_document_mut("updateDescription")
                && description.get("disambiguatedPaths") == Some(&bson!({}))
            {
                description.remove("disambiguatedPaths");
            }
            events.push(event);
        }
        events
    }
}
