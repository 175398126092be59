//! The policy view: the part of the events that one client may see, whatever it requests.

use crate::filter::Predicate;
use crate::model::{FieldMask, TokenAudience};

/// The policy view of one client: the documents it may see, the fields hidden from it, and the resume
/// tokens it may use.
///
/// Watches with different views share a feed, but an event encoded for one view is never sent to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The condition that must certainly hold for every document that an event carries. Unlike a filter, it
    /// never passes an event for which it is unknown.
    pub row_filter: Option<Predicate>,
    /// The fields that are left out of every document.
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

    /// Returns whether both views render a visible event alike, including its resume token.
    #[must_use]
    pub fn renders_same_as(&self, other: &Self) -> bool {
        self.token_audience == other.token_audience && self.field_mask == other.field_mask
    }

    /// Returns whether the view hides anything, or restricts its tokens.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.row_filter.is_some() || self.token_audience.is_some() || !self.field_mask.is_empty()
    }
}
