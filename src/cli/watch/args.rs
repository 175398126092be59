//! The command line of `weir watch`. Each flag sets a field of `WatchRequest`, through `request`, or affects
//! only this client.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{ValueEnum, builder::PossibleValue};

use super::credentials::CredentialArgs;
use super::scope::Scope;
use super::server::{DEFAULT_SERVER, Server, ServerParser};
use super::shard::ShardArg;
use super::tls::TlsArgs;
use super::token::Token;
use super::where_clause::WhereClause;
use crate::model::Operation;
use crate::wire::Compression;

/// Watch changes as they happen and print them
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct WatchArgs {
    /// The collections to watch: DB.COLLECTION, DB.A,B for several collections, or DB for a whole database
    #[arg(
        value_name = "SCOPE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub scope: Option<Scope>,

    /// A further collection of the database, whose name may contain commas. Repeat it for several
    #[arg(long = "collection", value_name = "NAME", conflicts_with = "all")]
    pub collections: Vec<String>,

    /// Watch the whole deployment. The server must run with --allow-deployment-watch
    #[arg(long)]
    pub all: bool,

    /// The server: https://HOST:PORT, or http://HOST:PORT without TLS. Credentials do not belong in it
    #[arg(
        long,
        env = "WEIR_SERVER",
        hide_env_values = true,
        value_name = "URL",
        default_value = DEFAULT_SERVER,
        value_parser = ServerParser
    )]
    pub server: Server,

    /// TLS to the server.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Credentials for the server.
    #[command(flatten)]
    pub credentials: CredentialArgs,

    /// Only events of this operation. Repeat it, or separate several by commas
    #[arg(
        long = "op",
        value_name = "OPERATION",
        value_enum,
        ignore_case = true,
        value_delimiter = ','
    )]
    pub operations: Vec<Operation>,

    /// Only documents that match this condition, such as 'status=paid', 'total>100', 'qty in [1, 2]',
    /// 'note exists', 'sku ^= A-', 'name ~ /^jo/i', 'changed(status)' or 'not changed(status)'. Repeat it for
    /// several; all must match
    #[arg(long = "where", value_name = "EXPR")]
    pub conditions: Vec<WhereClause>,

    /// Print only these fields of documents, as dotted paths such as status,address.city; _id always comes along.
    /// Repeat it, or separate several by commas
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    pub fields: Vec<String>,

    /// The share of the documents of one of several consumers, numbered from 0: 2/5 is the third of five. Each
    /// document belongs to one of them; events about collections and databases come to all
    #[arg(long, value_name = "INDEX/COUNT")]
    pub shard: Option<ShardArg>,

    /// A stage of an aggregation pipeline that MongoDB runs on the events, in Extended JSON, such as
    /// '{"$project": {"fullDocument.card": 0}}'. Repeat it for several, which run in their order. The server must
    /// run with --allow-pipeline
    #[arg(long = "stage", value_name = "JSON")]
    pub stages: Vec<String>,

    /// The document in update events
    #[arg(long, value_name = "MODE", value_enum, default_value = "default")]
    pub full_document: FullDocument,

    /// The document before the change, in update, replace and delete events
    #[arg(long, value_name = "MODE", value_enum, default_value = "off")]
    pub before: BeforeImage,

    /// Also print create, createIndexes, dropIndexes, modify, sharding and endOfTransaction events
    #[arg(long)]
    pub expanded: bool,

    /// Resume after this token, in base64, base64url or hexadecimal
    #[arg(long, value_name = "TOKEN", conflicts_with = "since")]
    pub resume_token: Option<Token>,

    /// Start at this time: a time such as 2025-01-31T12:00:00Z (in UTC) or 2025-01-31T13:00:00+01:00, an age
    /// such as 10m, or now
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<Moment>,

    /// Exit after the events of this second, in the form of --since
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<Moment>,

    /// The handling of events without the document that a --where condition needs
    #[arg(long, value_name = "POLICY", value_enum, default_value = "deliver")]
    pub missing_image: MissingImage,

    /// The reaction when the watched collection or database is dropped or renamed
    #[arg(long, value_name = "POLICY", value_enum, default_value = "end")]
    pub on_invalidate: OnInvalidate,

    /// The handling of events larger than --max-message-bytes
    #[arg(long, value_name = "POLICY", value_enum, default_value = "chunk")]
    pub oversize: Oversize,

    /// The largest message, such as 4MiB or 4194304 bytes: 64KiB to 64MiB [default: 3MiB, set by the server]
    #[arg(long, value_name = "BYTES", value_parser = message_bytes)]
    pub max_message_bytes: Option<u32>,

    /// Accept messages that the server compresses in this way, if it allows that with its --compression
    #[arg(long, value_name = "NAME", value_enum)]
    pub compression: Option<Compression>,

    /// The longest time without a message, 1s to 60s [default: 15s, set by the server]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub progress_interval: Option<Duration>,

    /// The output format [default: pretty on a terminal, json otherwise]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub output: Option<OutputFormat>,

    /// The use of colors
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    pub color: Color,

    /// Do not cut lines to the width of the terminal
    #[arg(long)]
    pub wide: bool,

    /// Also print progress messages
    #[arg(long)]
    pub show_progress: bool,

    /// Exit after this many events, 1 or more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,

    /// Store the resume token in this file, and resume from it if the file exists; --resume-token and --since
    /// are then ignored. The file is replaced, or written in place if it can't be, as a file that is mounted
    /// into a container
    #[arg(long, value_name = "FILE")]
    pub resume_file: Option<PathBuf>,

    /// Exit with code 1 if the connection is lost or the server is unreachable, instead of reconnecting
    #[arg(long)]
    pub no_reconnect: bool,
}

const EXAMPLES: &str = "\
Examples:
  weir watch shop.orders --op insert --op update --where 'status=paid' --where 'total>100'
  weir watch shop.orders --fields status,total
  weir watch shop --since 10m --until now --output json | jq .documentKey
  weir watch shop.orders --resume-file orders.token
  weir watch shop.orders --server https://weir.example:443 --tls-ca-file ca.pem

A value in --where is JSON or Extended JSON if it is valid JSON (5, true, null, \"5\",
{\"$oid\": \"...\"}, {\"$date\": \"2025-01-31T12:00:00Z\"}) and text otherwise. Text that looks like an
ObjectId, a date, a UUID or a number gets a warning; quotes around it silence that.

Exit code: 0 at --limit, at --until, on Ctrl-C or SIGTERM, and when nobody reads stdout any more;
1 if the watch can't continue; 2 for an invalid command line or a resume file that can't be used.
With --resume-file, end a watch by --limit rather than by `| head`: what stdout's reader left
unread is printed again.";

impl WatchArgs {
    /// Returns the scope of SCOPE and each `--collection`.
    pub fn scope(&self) -> Scope {
        let mut scope = self.scope.clone().unwrap_or_default();
        scope.collections.extend(self.collections.iter().cloned());
        scope
    }
}

/// Parses a number of bytes, with or without a unit.
fn message_bytes(text: &str) -> Result<u32, &'static str> {
    let bytes = text.parse::<bytesize::ByteSize>().ok();
    bytes
        .and_then(|it| u32::try_from(it.as_u64()).ok())
        .filter(|it| (65_536..=67_108_864).contains(it))
        .ok_or("write a size of 64KiB to 64MiB, or its number of bytes")
}

/// A time given directly or as an age, resolved when the command line is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub SystemTime);

impl std::str::FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        let now = SystemTime::now();
        let text = text.trim();
        if text.eq_ignore_ascii_case("now") {
            return Ok(Moment(now));
        }
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return Ok(Moment(time));
        }
        // With an offset.
        if let Ok(time) = bson::DateTime::parse_rfc3339_str(text) {
            return Ok(Moment(time.to_system_time()));
        }
        let age = text.strip_prefix('-').unwrap_or(text);
        let age = age.strip_suffix("ago").unwrap_or(age).trim();
        humantime::parse_duration(age)
            .ok()
            .and_then(|age| now.checked_sub(age))
            .map(Moment)
            .ok_or_else(|| {
                "not a time: write 2025-01-31T12:00:00Z (in UTC), 2025-01-31T13:00:00+01:00, an age such \
                 as 90s, 10m, 2h or 1day, or now"
                    .to_owned()
            })
    }
}

/// Operations have the names of MongoDB on the command line.
impl ValueEnum for Operation {
    fn value_variants<'a>() -> &'a [Self] {
        &REQUESTABLE_OPERATIONS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// Every value of `--op`, in the order of `--help`.
const REQUESTABLE_OPERATIONS: [Operation; 16] = [
    Operation::Insert,
    Operation::Update,
    Operation::Replace,
    Operation::Delete,
    Operation::Drop,
    Operation::Rename,
    Operation::DropDatabase,
    Operation::Create,
    Operation::CreateIndexes,
    Operation::DropIndexes,
    Operation::Modify,
    Operation::ShardCollection,
    Operation::RefineCollectionShardKey,
    Operation::ReshardCollection,
    Operation::EndOfTransaction,
    Operation::Other,
];

/// The document in update events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FullDocument {
    /// No document, only the changed fields
    Default,
    /// The current document, which MongoDB looks up when it reads the change
    Lookup,
    /// The stored post-image, if there is one
    WhenAvailable,
    /// The stored post-image; the watch ends if there is none
    Required,
}

/// The document before the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BeforeImage {
    /// No document
    Off,
    /// The stored pre-image, if there is one
    WhenAvailable,
    /// The stored pre-image; the watch ends if there is none
    Required,
}

/// The handling of events that a condition can't be decided for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MissingImage {
    /// Print events that may match
    Deliver,
    /// Print only events that certainly match
    Drop,
}

/// The reaction to an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnInvalidate {
    /// Exit with code 1
    End,
    /// Continue with a collection or database created later under the same name
    Continue,
}

/// The handling of events that are too large for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Oversize {
    /// Receive the event in chunks and print it whole
    Chunk,
    /// Print only the document key
    Omit,
    /// Exit with code 1
    Fail,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// One line per event, for people
    Pretty,
    /// One JSON object per line, for programs
    Json,
}

/// The use of colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also in pipes and files
    Always,
    /// No colors
    Never,
}

impl Color {
    /// Applies the choice to stdout and stderr of this process.
    pub fn apply_everywhere(self) {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}
