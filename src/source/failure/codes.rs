//! What each of MongoDB's error codes means for a change stream.
//!
//! Names are those of `src/mongo/base/error_codes.yml` of mongodb/mongo; numbers without a name there are
//! assertions of the server, of which the manual and bug reports name a few.

use super::{
    kind::Failure,
    refusal::{NEWER_OPTIONS, names_option},
};

/// The parts of an error reply that decide its meaning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ErrorReply<'a> {
    /// Its code.
    pub code: i32,
    /// The name of the code; empty where the server sends none.
    pub name: &'a str,
    /// Its message, which may quote data.
    pub message: &'a str,
    /// `true` if a label allows a change stream to be resumed, or a command to be sent again.
    pub resumable: bool,
    /// `true` if a label forbids it.
    pub not_resumable: bool,
    /// `true` if a label says that the server is overloaded.
    pub overloaded: bool,
}

/// Returns what an error means in the reply to any command of a stream.
pub(super) fn classify(reply: ErrorReply<'_>) -> Failure {
    let says = |word: &str| contains(reply.message, word);
    match reply.code {
        // ChangeStreamHistoryLost, CappedPositionLost.
        286 | 136 => Failure::HistoryLost,
        280 if says_first(reply.message, CHANGED_TOKEN, SEVERAL_DOCUMENTS) => {
            Failure::PipelineChangedToken
        }
        // A look-up of a document whose `_id` two shards have (SERVER-55179): TooManyMatchingDocuments,
        // which the stage reports as ChangeStreamFatalError.
        280 if says(SEVERAL_DOCUMENTS) => Failure::LookupAmbiguous,
        170 => Failure::LookupAmbiguous,
        280 => Failure::TokenNotFound,
        260 | 50811 | 40576 | 40585 | 40615 | 40647 | 40648 | 40649 => Failure::TokenInvalid,
        47 => Failure::ImageMissing,
        10334 => Failure::EventTooLarge,
        464 => Failure::ShardRemoved,
        13 => Failure::AccessDenied,
        // AuthenticationFailed, ReauthenticationRequired, and Atlas's code for both.
        18 | 391 | 8000 => Failure::LoginFailed,
        // CommandNotSupportedOnView, OptionNotSupportedOnView, CommandOnShardedViewNotSupportedOnMongod.
        166 | 167 | 169 => Failure::NotACollection,
        115 if says_time_series(reply.message) => Failure::NotACollection,
        // PCRE does not compile the pattern, or MongoDB does not know its options. Older servers and some
        // compatible ones report both as BadValue.
        51091 | 51108 => Failure::PatternRefused,
        2 if says("regular expression") || says("regex") => Failure::PatternRefused,
        // Amazon DocumentDB uses the number of SplitHorizonChange for a feature that it lacks.
        303 if reply.name != "SplitHorizonChange" && !says("horizon") => Failure::Unsupported,
        code if UNSUPPORTED.contains(&code) => Failure::Unsupported,
        code if OVERLOADED.contains(&code) => Failure::Overloaded,
        _ if reply.overloaded && !reply.not_resumable => Failure::Overloaded,
        code if PASSING.contains(&code) => Failure::Transient,
        _ if reply.resumable && !reply.not_resumable => Failure::Transient,
        code if is_documented(code) => Failure::Refused,
        _ => Failure::Unexpected,
    }
}

/// Returns what an error means when it answers the opening of a stream, if that differs from
/// [`classify`]. `failure` is the result of that.
pub(super) fn reclassify_opening(
    reply: ErrorReply<'_>,
    failure: Failure,
    has_token: bool,
    one_collection: bool,
) -> Failure {
    match (failure, reply.code) {
        // MongoDB has codes for tokens that it can't use, but reports a token of another format with the
        // codes of a malformed command. The rest of the command is Weir's and is valid in every other
        // call, so these codes mean the token, unless the message names an option that not every server has.
        (Failure::Refused, code)
            if is_malformed_command(code) && has_token && !names_newer_option(reply.message) =>
        {
            Failure::TokenInvalid
        }
        // The name is one of MongoDB's own namespaces, or none at all.
        (Failure::Refused, 73) => Failure::InvalidName,
        // CommandNotSupported, since 8.3 also for time-series collections (SERVER-116464). Other servers
        // use it for commands and stages that they do not have, and name those.
        (Failure::Unsupported, 115) if one_collection && !names_a_command(reply.message) => {
            Failure::NotACollection
        }
        (Failure::Refused, code) if UNKNOWN_TO_THE_DEPLOYMENT.contains(&code) => {
            Failure::Unsupported
        }
        // An assertion, as 51771 of MongoDB 4.4 behind a mongos.
        (Failure::Unexpected, _) if names_newer_option(reply.message) => Failure::Unsupported,
        _ => failure,
    }
}

/// Returns whether a code is one of a malformed command: BadValue, FailedToParse, TypeMismatch, a missing field.
fn is_malformed_command(code: i32) -> bool {
    matches!(code, 2 | 9 | 14 | 40414)
}

/// Returns whether the deployment refuses a stage, or a part of one.
pub(super) fn refuses_a_stage(code: i32) -> bool {
    code == UNKNOWN_STAGE || UNKNOWN_TO_THE_DEPLOYMENT.contains(&code)
}

/// Returns whether an operation would need more memory than one may have: ExceededMemoryLimit,
/// QueryExceededMemoryLimitNoDiskUseAllowed. Stages do for some documents, however little others need.
pub(super) fn exceeds_memory_limit(code: i32) -> bool {
    matches!(code, 146 | 292)
}

const UNKNOWN_STAGE: i32 = 40324;

/// What MongoDB says of an event whose `_id` the pipeline has changed (`plan_executor_pipeline.cpp`). The two
/// values of the `_id` follow.
const CHANGED_TOKEN: &str = "which contains the resume token, was modified by the pipeline";

/// What MongoDB says of a look-up that found several documents. Their key follows.
const SEVERAL_DOCUMENTS: &str = "more than one document";

/// The deployment lacks change streams, a command or a stage: $changeStream on a standalone server (40573),
/// ChangeStreamNotEnabled, ReadConcernMajorityNotEnabled, CommandNotFound, CommandNotSupported,
/// NotImplemented, InternalErrorNotSupported, NotAReplicaSet, an unknown stage (40324).
const UNSUPPORTED: [i32; 9] = [40573, 123, 376, 148, 59, 115, 238, 235, UNKNOWN_STAGE];

/// The deployment refuses an option, a stage or the form of the command when a stream is opened: BadValue,
/// FailedToParse, UnsupportedFormat, TypeMismatch, ProtocolError, IllegalOperation, InvalidOptions,
/// InvalidPipelineOperator, QueryFeatureNotAllowed, the errors of the stable API, UnsupportedOpQueryCommand and the parser's own.
const UNKNOWN_TO_THE_DEPLOYMENT: [i32; 18] = [
    2, 9, 12, 14, 17, 20, 72, 168, 224, 322, 323, 324, 347, 352, 40413, 40414, 40415, 4_662_500,
];

/// The server is short of memory, disk, files, locks or sessions, or limits the rate: TooManyLocks,
/// TooManyLogicalSessions, TooManyFilesOpen, ExceededMemoryLimit, QueryExceededMemoryLimitNoDiskUseAllowed,
/// ResourceExhausted, AdmissionQueueOverflow, RateLimitExceeded,
/// PooledConnectionAcquisitionRejected, IngressRequestRateLimitExceeded, OutOfDiskSpace; 16500 is how Azure Cosmos DB
/// limits the rate.
const OVERLOADED: [i32; 12] = [
    146, 292, 208, 261, 264, 402, 433, 449, 450, 462, 14031, 16500,
];

/// The codes that pass by themselves, so that the stream can be opened again at its position.
const PASSING: [i32; 123] = [
    // CursorNotFound, then the drivers' list for servers that send no labels.
    43, 6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 63, 150, 13388, 234, 133,
    // The codes that mongod 8.2 labels as resumable beyond that list. It labels only the errors of change
    // streams, but Weir sends other commands too.
    134, 175, 317, 358, 384, 401, 406, 407, 412, 453, 50915, 91331, 10_045_600,
    // The cursor or its session is gone: OperationFailed, ObjectIsBusy, NoSuchSession.
    96, 314, 206,
    // An operation was interrupted or timed out: Interrupted, CursorKilled, ClientDisconnect,
    // TransactionExceededLifetimeLimitSeconds, MaxTimeMSExpired, NetworkInterfaceExceededTimeLimit,
    // CallbackCanceled, BalancerInterrupted, PeriodicJobIsStopped, OperationIsKilledAndDelisted,
    // InterruptedDueToStorageChange, ClientMarkedKilled, BrokenPromise, KeyedExecutorRetry,
    // WaitForMajorityServiceEarlierOpTimeAvailable, and four of a transaction's coordinator.
    11601, 237, 279, 290, 50, 202, 90, 194, 310, 312, 355, 46841, 245, 259, 289, 281, 282, 287, 311,
    // A lock, a conflict or a shortage: LockTimeout, LockBusy, LockFailed, LockNotFound,
    // LockStateChangeFailed, WriteConflict, ConflictingOperationInProgress, TemporarilyUnavailable,
    // BackgroundOperationInProgressForDatabase and -ForNamespace, CursorInUse.
    24, 46, 107, 128, 129, 112, 117, 365, 12586, 12587, 143,
    // Elections and members that are not ready: ElectionInProgress, LegacyNotPrimary, NotSecondary,
    // StaleTerm, NotYetInitialized, InvalidReplicaSetConfig, ConfigurationInProgress, InitialSyncActive,
    // NodeNotFound, ReplicaSetNotFound, CurrentConfigNotCommittedYet, SplitHorizonChange,
    // SecondaryAheadOfPrimary, InitialSyncFailure.
    216, 10058, 95, 135, 94, 93, 109, 164, 74, 71, 308, 303, 92, 113,
    // A connection is closed or can't be opened: ServiceExecutorInShutdown,
    // CloseConnectionForShutdownCommand, StreamTerminated, LoadBalancerSupportMismatch,
    // PooledConnectionsDropped, TransportSessionClosed, -NotFound, -Unknown, MasterSlaveConnectionFailure, DNSHostNotFound,
    // DNSProtocolError.
    333, 372, 398, 354, 145, 172, 173, 174, 190, 230, 231,
    // The deployment is changing: keys not there yet, a removed shard, stale versions and caches,
    // migrations, resharding: KeyNotFound, ShardNotFound, StaleDbVersion, NoConfigPrimary,
    // ReplicaSetMonitorRemoved, ShardingStateNotInitialized, DatabaseDropPending, StaleChunkHistory,
    // MigrationConflict, MovePrimaryInProgress, ReshardCollectionInProgress, ReshardCollectionCommitted,
    // ReshardCollectionAborted, ReshardingCriticalSectionTimeout, ShardCannotRefreshDueToLocksHeld,
    // PlacementVersionRefreshCanceled, DatabaseMetadataRefreshCanceled, -DueToFCVTransition,
    // AddOrRemoveShardInProgress, RemoteCommandExecutionError, ReadThroughCacheLookupCanceled,
    // ConfigServerUnreachable, RemoteResultsUnavailable, OBSOLETE_RecvStaleConfig,
    // IllegalChangeToExpectedShardVersion, IllegalChangeToExpectedDatabaseVersion.
    211, 70, 249, 149, 199, 203, 215, 250, 272, 319, 338, 340, 341, 342, 343, 360, 379, 445, 414,
    382, 306, 56846, 83, 9996, 640_570, 640_571,
    // Times that are not there yet or no longer: SnapshotTooOld, SnapshotUnavailable,
    // CannotVerifyAndSignLogicalTime. A stream reads at no fixed time, so the next attempt differs.
    239, 246, 210,
    // MongoDB's internal signals to restart a stream or a plan: CloseChangeStream, ChangeStreamInvalidated,
    // ChangeStreamTopologyChange, ChangeStreamStartAfterInvalidate, RetryMultiPlanning. If one ever leaks,
    // the position is still valid.
    222, 346, 348, 351, 442,
];

/// Returns whether a code has a name in `error_codes.yml`. The server numbers them in sequence below 4000,
/// keeps 4000 to 8999 free, and has these few beyond for compatibility. Every other number marks one
/// assertion in the server's source.
fn is_documented(code: i32) -> bool {
    const BEYOND: [i32; 19] = [
        10003, 11000, 13104, 13113, 13297, 14031, 17280, 28769, 31082, 40413, 40414, 40415, 50768,
        57986, 1_003_141, 4_662_500, 4_938_500, 9_737_301, 10_171_600,
    ];
    matches!(code, 0..4000 | 9000..10_000 | 9_751_901..=9_751_903) || BEYOND.contains(&code)
}

fn names_newer_option(message: &str) -> bool {
    let mut options = NEWER_OPTIONS.iter();
    options.any(|option| names_option(message, option))
}

fn says_time_series(message: &str) -> bool {
    ["timeseries", "time-series", "time series"]
        .iter()
        .any(|words| contains(message, words))
}

fn names_a_command(message: &str) -> bool {
    [
        "command",
        "changestream",
        "change stream",
        "stage",
        "aggregat",
    ]
    .iter()
    .any(|word| contains(message, word))
}

/// Returns whether `text` contains `first`, and not `second` before it: what MongoDB says itself comes before the
/// data that it quotes, which may be anything.
fn says_first(text: &str, first: &str, second: &str) -> bool {
    match (find(text, first), find(text, second)) {
        (Some(first), Some(second)) => first < second,
        (first, _) => first.is_some(),
    }
}

/// Returns whether `text` contains `word`, which is in lower case, in any case of ASCII.
fn contains(text: &str, word: &str) -> bool {
    find(text, word).is_some()
}

fn find(text: &str, word: &str) -> Option<usize> {
    text.as_bytes()
        .windows(word.len())
        .position(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests;
