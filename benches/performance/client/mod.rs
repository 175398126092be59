//! The clients: one reader that is measured itself, a load generator that costs as little as possible, and a
//! principal that floods the server beside others that do not.

pub mod bystander;
mod delivery;
pub mod flood;
mod frames;
pub mod load;
pub mod load_generator;
#[path = "../../../tests/it/support/raw_codec.rs"]
mod raw_codec;
pub mod reader;
pub mod reader_kind;
