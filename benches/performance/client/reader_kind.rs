//! The kinds of readers that are compared.

use clap::ValueEnum;

/// A client, and what it makes of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReaderKind {
    /// The driver's typed change stream.
    Driver,
    /// The same with the stage that splits large events, which Weir always uses and without which
    /// an event over 16 MiB ends the stream: the same work for the database.
    DriverSplitting,
    /// A client of Weir that leaves documents as BSON bytes.
    Weir,
    /// A client of Weir that decodes every document.
    WeirDecoding,
}

impl ReaderKind {
    /// All kinds; first the driver, to which the others are compared.
    pub const ALL: [Self; 4] = [
        Self::Driver,
        Self::DriverSplitting,
        Self::Weir,
        Self::WeirDecoding,
    ];

    /// All kinds, starting with another one each round.
    pub fn rotated(round: u32) -> impl Iterator<Item = Self> {
        let first = round as usize % Self::ALL.len();
        Self::ALL
            .into_iter()
            .cycle()
            .skip(first)
            .take(Self::ALL.len())
    }

    /// Returns whether it reads from Weir.
    pub fn through_weir(self) -> bool {
        matches!(self, Self::Weir | Self::WeirDecoding)
    }

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver, `ChangeStream<ChangeStreamEvent<Document>>`",
            Self::DriverSplitting => "the same, with `$changeStreamSplitLargeEvent`",
            Self::Weir => "Weir, documents as BSON bytes",
            Self::WeirDecoding => "Weir, every document decoded to `Document`",
        }
    }

    /// The name on the command line.
    pub fn argument(self) -> String {
        let value = self.to_possible_value().expect("no way is skipped");
        value.get_name().to_owned()
    }
}
