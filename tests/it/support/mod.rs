//! The helpers of all integration tests: a database, the server in process, a client, a network to
//! break.
//!
//! ```ignore
//! use crate::support::{Database, Weir};
//!
//! let database = Database::start().await;
//! let weir = Weir::start(&database).await;
//! let mut watch = weir.watch(database.watch_request(&["orders"])).await;
//! database.collection("orders").insert_one(doc! {"_id": 1}).await?;
//! let insert = watch.next_change().await;
//! ```
//!
//! Every wait has a limit, and nothing sleeps for a fixed time: a test waits for a message or a
//! condition, and fails with a description of it when the limit is reached.
#![allow(
    dead_code,
    unused_imports,
    reason = "tests/repository and benches/soak use only a part of this"
)]

mod admin;
mod binary;
pub mod certificates;
mod database;
mod database_process;
mod eventually;
pub mod exposition;
mod failpoint;
pub mod issuer;
pub mod ledger;
pub mod orders;
pub mod policy_server;
mod process;
mod proxy;
mod raw_codec;
mod server;
pub mod stand_in;
mod tally;
pub mod tokens;
mod tools;
mod watch_stream;

pub use admin::{Samples, get, request};
pub use binary::{ServeProcess, weir};
pub use database::Database;
pub use database_process::DatabaseOptions;
pub use eventually::{WAIT_LIMIT, eventually, within};
pub use failpoint::FailCommand;
pub use policy_server::PolicyServer;
pub use process::ChildProcess;
pub use proxy::{Direction, Mode, Proxy, Side};
pub use raw_codec::RawCodec;
pub use server::Weir;
pub use tally::{Figure, tally};
pub use tools::{node, on_path, program, python, repository, virtual_environment_tool};
pub use watch_stream::{WatchStream, error_info, error_reason};
