//! The policy view: the part of the events that one client may see, whatever it requests.

use crate::filter::Filter;
use crate::model::{FieldMask, TokenAudience};

/// The policy view of one client: the documents it may see, the fields hidden from it, and the resume
/// tokens it may use.
///
/// A watch takes it apart, see [`Watch::restrict_to`](crate::pipeline::Watch::restrict_to): the row filter is a
/// condition on events, and the rest is part of what the watch is shown of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The condition that must certainly hold for every document that an event carries. Unlike a filter, it
    /// never passes an event for which it is unknown.
    pub row_filter: Option<Filter>,
    /// The fields that are hidden in every document.
    pub field_mask: FieldMask,
    /// The clients that may resume from the tokens of this view; `None` if the policy does not separate
    /// them.
    pub token_audience: Option<TokenAudience>,
}

impl View {
    /// Returns the view that shows everything.
    #[must_use]
    pub fn unrestricted() -> Self {
        Self::default()
    }
}
