//! The clients: one reader that is measured itself, and a load generator that costs as little as
//! possible.

mod delivery;
pub mod load;
pub mod load_generator;
pub mod reader;
pub mod reader_kind;
