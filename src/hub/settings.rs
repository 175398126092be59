//! The limits and the identity of a hub.

use std::{sync::Arc, time::Duration};

use crate::wire::TokenKeys;

/// Limits and identity of a [`Hub`](super::Hub).
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The maximum number of feeds, each with one change stream on MongoDB.
    pub max_feeds: usize,
    /// The maximum number of dedicated feeds per scope. Beyond it, a watch with feed mode AUTO uses the
    /// scope's shared feed.
    pub feeds_per_scope: usize,
    /// The maximum number of concurrent catch-ups, each with its own change stream.
    pub max_catch_ups: usize,
    /// The bytes of events that a feed keeps for its watchers. One reply of MongoDB (up to 16 MiB) may
    /// exceed it.
    pub ring_bytes: usize,
    /// The memory limit in bytes for all feeds, catch-ups and encodings together.
    pub memory_limit: usize,
    /// The time that a feed keeps running after its last watcher has left.
    pub feed_linger: Duration,
    /// The longest outage of MongoDB that a watch survives.
    pub upstream_grace: Duration,
    /// The deployment's name in resume tokens; by default the replica set's name.
    pub deployment_name: Option<String>,
    /// The keys that encrypt resume tokens. `None`: tokens are not encrypted.
    pub token_keys: Option<Arc<TokenKeys>>,
}
