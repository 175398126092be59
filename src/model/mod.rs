//! The vocabulary of a watch: what is watched, which operations, the options, what is shown of an event,
//! and what is wrong with a request.

mod operation;
pub use operation::Operation;
pub(crate) use operation::OperationSet;

mod end_time;
pub use end_time::EndTime;

mod scope;
pub use scope::{INTERNAL_DATABASES, Scope};

mod event_index;
pub use event_index::{EventField, EventIndex};

mod options;
pub use options::{
    BeforeChange, FeedMode, Format, FullDocument, Invalidate, MissingImage, Oversize, Start,
};

mod stage;
pub use stage::{Mode, Stage};

mod mask;
pub use mask::{FieldMask, MaskNode, PathMatch};

mod rendering;
pub use rendering::{Rendering, TokenAudience};

mod violations;
pub use violations::{FieldViolation, MAX_VIOLATIONS, RequestError};
pub(crate) use violations::{Findings, quoted};
