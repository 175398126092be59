//! The command line of `weir watch`. Every flag has one meaning in `WatchRequest`, or concerns
//! this client alone; `request` does the translation.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{ValueEnum, builder::PossibleValue};

use super::credentials::CredentialArgs;
use super::scope::Scope;
use super::tls::TlsArgs;
use super::token::Token;
use super::where_clause::WhereClause;
use crate::plan::Operation;

/// Where `weir serve` listens unless told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// Watch changes as they happen and print them
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct WatchArgs {
    /// What to watch: DB.COLLECTION, DB.A,B for several collections, or DB for a whole database
    #[arg(
        value_name = "SCOPE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub scope: Option<Scope>,

    /// One more collection of the database, for names with commas; may be repeated
    #[arg(long = "collection", value_name = "NAME", conflicts_with = "all")]
    pub collections: Vec<String>,

    /// Watch the whole deployment (the server must allow it)
    #[arg(long)]
    pub all: bool,

    /// The server: https://HOST:PORT, or http:// for one without TLS
    #[arg(long, env = "WEIR_SERVER", value_name = "URL", default_value = DEFAULT_SERVER)]
    pub server: Server,

    /// How the server is reached over TLS
    #[command(flatten)]
    pub tls: TlsArgs,

    /// What is shown to the server to say who watches
    #[command(flatten)]
    pub credentials: CredentialArgs,

    /// Only this operation; may be repeated, or listed with commas
    #[arg(
        long = "op",
        value_name = "OPERATION",
        value_enum,
        ignore_case = true,
        value_delimiter = ','
    )]
    pub operations: Vec<Operation>,

    /// Only documents for which this holds, such as 'status=paid', 'total>100', 'qty in [1, 2]',
    /// 'note exists', 'sku ^= A-' or 'name ~ /^jo/i'; may be repeated, then all must hold
    #[arg(long = "where", value_name = "EXPR")]
    pub conditions: Vec<WhereClause>,

    /// Which document an update carries
    #[arg(long, value_name = "MODE", value_enum, default_value = "default")]
    pub full_document: FullDocument,

    /// Whether changes carry the document as it was before
    #[arg(long, value_name = "MODE", value_enum, default_value = "off")]
    pub before: BeforeImage,

    /// Also show create, createIndexes, dropIndexes, modify and sharding events
    #[arg(long)]
    pub expanded: bool,

    /// Go on after this token: base64url or hexadecimal
    #[arg(long, value_name = "TOKEN", conflicts_with = "since")]
    pub resume_token: Option<Token>,

    /// Start here: a time such as 2025-01-31T12:00:00Z, or an age such as 10m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<Moment>,

    /// End after this second, written as for --since
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<Moment>,

    /// What to do when a condition needs a document that the change does not carry
    #[arg(long, value_name = "POLICY", value_enum, default_value = "deliver")]
    pub missing_image: MissingImage,

    /// What to do when the watched collection or database goes away
    #[arg(long, value_name = "POLICY", value_enum, default_value = "end")]
    pub on_invalidate: OnInvalidate,

    /// What to do with an event that is larger than a message may be
    #[arg(long, value_name = "POLICY", value_enum, default_value = "chunk")]
    pub oversize: Oversize,

    /// The largest message in bytes, 65536 to 67108864 [default: the server's, 3 MiB]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(65_536..=67_108_864))]
    pub max_message_bytes: Option<u32>,

    /// The longest silence on the stream, 1s to 60s [default: the server's, 15s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub progress_interval: Option<Duration>,

    /// How to print [default: pretty on a terminal, json elsewhere]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub output: Option<OutputFormat>,

    /// Whether to use colours
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    pub color: Color,

    /// Print whole lines, however narrow the terminal is
    #[arg(long)]
    pub wide: bool,

    /// Also print progress messages
    #[arg(long)]
    pub show_progress: bool,

    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,

    /// Keep the place in this file, and go on from it when it exists (then --resume-token and
    /// --since are not used)
    #[arg(long, value_name = "FILE")]
    pub resume_file: Option<PathBuf>,

    /// End when the connection is lost or the server is away, with exit code 1
    #[arg(long)]
    pub no_reconnect: bool,
}

const EXAMPLES: &str = "\
Examples:
  weir watch shop.orders --op insert --op update --where 'status=paid' --where 'total>100'
  weir watch shop --since 10m --until now --output json | jq .documentKey
  weir watch shop.orders --resume-file orders.token
  weir watch shop.orders --server https://weir.example:443 --tls-ca-file ca.pem

A value in --where is JSON or Extended JSON where it reads as such (5, true, null, \"5\",
{\"$oid\": \"...\"}) and text otherwise. Exit code: 0 at the limit, at --until, on Ctrl-C and when
stdout closes; 1 when the watch cannot go on; 2 for a command line that cannot be.";

impl WatchArgs {
    /// The scope, from SCOPE and each `--collection`.
    pub fn scope(&self) -> Scope {
        let mut scope = self.scope.clone().unwrap_or_default();
        scope.collections.extend(self.collections.iter().cloned());
        scope
    }
}

/// The address of a server, always with its scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server(pub String);

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Server, String> {
        let url = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        match url.parse::<http::Uri>() {
            Ok(uri)
                if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() =>
            {
                Ok(Server(url))
            }
            _ => Err(format!("not an address; write it as {DEFAULT_SERVER}")),
        }
    }
}

/// A time given as such or by its age, fixed when the command line is read.
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
        let age = text.strip_prefix('-').unwrap_or(text);
        let age = age.strip_suffix("ago").unwrap_or(age).trim();
        humantime::parse_duration(age)
            .ok()
            .and_then(|age| now.checked_sub(age))
            .map(Moment)
            .ok_or_else(|| {
                "not a time; write 2025-01-31T12:00:00Z (in UTC), an age such as 90s, 10m, 2h or \
                 1day, or now"
                    .to_owned()
            })
    }
}

/// Operations are called on the command line what MongoDB calls them.
impl ValueEnum for Operation {
    fn value_variants<'a>() -> &'a [Self] {
        &REQUESTABLE_OPERATIONS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// Every operation that can be asked for, as `--help` lists them.
const REQUESTABLE_OPERATIONS: [Operation; 15] = [
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
    Operation::Other,
];

/// Which document an update carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FullDocument {
    /// None: the changed fields only
    Default,
    /// The document as MongoDB finds it when it reads the change
    Lookup,
    /// The stored post-image, where there is one
    WhenAvailable,
    /// The stored post-image; without one the watch ends
    Required,
}

/// Whether changes carry the document as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BeforeImage {
    /// Never
    Off,
    /// The stored pre-image, where there is one
    WhenAvailable,
    /// The stored pre-image; without one the watch ends
    Required,
}

/// What an undecided condition is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MissingImage {
    /// Show what may match
    Deliver,
    /// Show only what surely matches
    Drop,
}

/// What follows an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnInvalidate {
    /// The watch ends, with exit code 1
    End,
    /// What is created under the same name later is watched too
    Continue,
}

/// What becomes of events that are too large for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Oversize {
    /// Receive it in pieces
    Chunk,
    /// Leave the change out and show the key
    Omit,
    /// End the watch
    Fail,
}

/// How messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// One coloured line an event, for people
    Pretty,
    /// One JSON object a line, for programs
    Json,
}

/// Whether to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also in a pipe
    Always,
    /// Not at all
    Never,
}

impl Color {
    /// Makes it the choice for stdout and stderr of this process.
    pub fn apply_everywhere(self) {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}
