//! What a span tells of a watch.

/// The caller of a watch.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The id of the watch, as in the log.
    pub watch_id: &'a str,
    /// The address of the client; empty if unknown.
    pub peer: &'a str,
    /// The name of the principal, as in the log.
    pub principal: &'a str,
}

/// The outcome of a watch.
#[derive(Debug, Clone, Copy)]
pub struct SpanEnd {
    /// The number of its gRPC code.
    pub code: i32,
    /// The reason of its end.
    pub reason: &'static str,
    /// `true` if the server or MongoDB is at fault.
    pub is_fault: bool,
    /// The number of events sent.
    pub events: u64,
}
