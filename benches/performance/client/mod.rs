//! Who reads: one reader that takes its time to be measured, and a crowd that costs as little as a
//! crowd can.

mod delivery;
pub mod load;
pub mod load_generator;
pub mod reader;
pub mod reader_kind;
