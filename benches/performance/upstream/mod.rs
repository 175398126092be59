//! The source of changes: a database, or a stand-in that takes almost no time.

pub mod collection;
pub mod database;
pub mod document;
pub mod pace;
pub mod source;
pub mod stand_in;
pub mod writer;
