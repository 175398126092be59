//! Who reads: one reader that takes its time to be measured, and a crowd that costs as little as a
//! crowd can.

pub mod crowd;
mod delivery;
pub mod load;
pub mod reader;
pub mod way;
