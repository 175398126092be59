//! The vocabulary of a watch and of events. Nothing here knows of filters or pipelines.
//!
//! - `operation`: the kinds of events, with their names in MongoDB and in the API.
//! - `scope`: what is watched: a collection, several, a database, or the deployment.
//! - `options`, `end_time`: the other options of a request.
//! - `event_index`: where the fields of a raw event are.
//! - `shard`: the share of the documents that one of several equal consumers watches.
//! - `caller`: whose watch it is, where shares go by callers.
//! - `stage`: how far a watch has come, and the mode of its feed.
//! - `rendering`, `mask`: what is shown of an event: format, fields, and the audience of its token.
//! - `printable`: text from outside, for people to read.
//! - `violations`: what is wrong with a request, field by field.

mod operation;
pub use operation::Operation;
pub(crate) use operation::OperationSet;

mod end_time;
pub use end_time::EndTime;

mod scope;
pub use scope::{INTERNAL_DATABASES, Scope};
pub(crate) use scope::{collection_problem, database_problem};

mod event_index;
pub use event_index::{EventField, EventIndex};

mod options;
pub use options::{
    BeforeChange, FeedMode, Format, FullDocument, Invalidate, MissingImage, Oversize, Start,
};

mod shard;
pub use shard::Shard;

mod caller;
pub use caller::Caller;

mod stage;
pub use stage::{Mode, Stage};

mod mask;
pub use mask::{FieldMask, MaskNode, PathMatch, UpdatePathComponent};

mod rendering;
pub use rendering::{Rendering, TokenAudience};

mod printable;
pub use printable::{escape_controls, is_control};

mod violations;
pub use violations::{FieldViolation, MAX_VIOLATIONS, RequestError};
pub(crate) use violations::{Findings, quoted};
