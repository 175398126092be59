//! The rules of the repository: they read its texts, and start a server only for the documents' examples.

#[path = "../it/support/mod.rs"]
mod support;

mod architecture;
mod dependencies;
mod documentation;
mod guarantees;
mod setup;
