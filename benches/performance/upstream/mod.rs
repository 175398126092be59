//! Where changes come from: a database, or a stand-in for one that takes next to no time itself.

pub mod collection;
pub mod database;
pub mod document;
pub mod pace;
pub mod source;
pub mod stand_in;
pub mod writer;
