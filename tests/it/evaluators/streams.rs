//! Reads the same events through one pipeline after another.

use mongodb::bson::{Bson, Document, doc};
use weir::model::Operation;
use weir::pipeline::Plan;

use crate::support::Database;

/// The streams over one collection, from before its first change to after its last.
pub struct Streams<'a> {
    database: &'a Database,
    collection: &'a str,
    start: Document,
}

impl<'a> Streams<'a> {
    /// Creates the collection.
    pub async fn begin(database: &'a Database, collection: &'a str, pre_images: bool) -> Self {
        let create = doc! {
            "create": collection,
            "changeStreamPreAndPostImages": {"enabled": pre_images},
        };
        let db = database.database();
        db.run_command(create).await.expect("a new collection");
        let opened = db
            .run_command(doc! {
                "aggregate": collection,
                "pipeline": [{"$changeStream": {}}],
                "cursor": {"batchSize": 0},
            })
            .await
            .expect("a change stream");
        let cursor = opened.get_document("cursor").expect("a cursor");
        let start = cursor
            .get_document("postBatchResumeToken")
            .expect("a token")
            .clone();
        let streams = Self {
            database,
            collection,
            start,
        };
        streams.close(cursor).await;
        streams
    }

    /// Marks the end, so that a reader knows that it has seen everything. Filters do not apply to
    /// the mark, and every watch here selects it.
    pub async fn end(&self) {
        let index = doc! {
            "createIndexes": self.collection,
            "indexes": [{"key": {"end_of_changes": 1}, "name": "end_of_changes"}],
        };
        let db = self.database.database();
        db.run_command(index).await.expect("an index");
    }

    /// The document events that come through the pipeline of this plan.
    pub async fn events(&self, plan: &Plan) -> Vec<Document> {
        let mut options = plan.options().to_document();
        options.insert("resumeAfter", &self.start);
        let mut pipeline = vec![doc! {"$changeStream": options}];
        pipeline.extend(plan.stages());
        let db = self.database.database();
        let mut reply = db
            .run_command(doc! {
                "aggregate": self.collection,
                "pipeline": &pipeline,
                "cursor": {"batchSize": 10_000},
            })
            .await
            .unwrap_or_else(|error| panic!("MongoDB refused {pipeline:#?}: {error}"));
        let mut events = Vec::new();
        let mut batch = "firstBatch";
        loop {
            let cursor = reply.get_document("cursor").expect("a cursor");
            for event in cursor.get_array(batch).expect("a batch") {
                let event = event.as_document().expect("an event").clone();
                match operation_of(&event) {
                    Operation::CreateIndexes => {
                        self.close(cursor).await;
                        return events;
                    }
                    operation if operation.is_document() => events.push(event),
                    operation => panic!("there should be no {operation:?}"),
                }
            }
            reply = db
                .run_command(doc! {
                    "getMore": cursor.get_i64("id").expect("an id"),
                    "collection": self.collection,
                    "maxTimeMS": 200,
                })
                .await
                .expect("more events");
            batch = "nextBatch";
        }
    }

    async fn close(&self, cursor: &Document) {
        let id = cursor.get("id").cloned().unwrap_or(Bson::Int64(0));
        let kill = doc! {"killCursors": self.collection, "cursors": [id]};
        let db = self.database.database();
        db.run_command(kill).await.expect("an end of the cursor");
    }
}

/// The kind of the event.
pub fn operation_of(event: &Document) -> Operation {
    Operation::from_name(event.get_str("operationType").expect("a type"))
}

/// The token of the event, which identifies it.
pub fn name_of(event: &Document) -> String {
    event.get("_id").expect("a token").to_string()
}
