//! Who a watch belongs to, as far as others' shares are concerned.

use std::{net::IpAddr, sync::Arc};

/// The caller of a watch: what is scarce goes round by callers. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    /// An authenticated principal, as policies write it, such as `jwt:alice`.
    Principal(Arc<str>),
    /// The address of a client that no authentication tells from others; `None` where it is not known.
    Address(Option<IpAddr>),
}

impl Default for Caller {
    fn default() -> Self {
        Self::Address(None)
    }
}
