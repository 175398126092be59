//! The values that labels of metrics have.

use std::hash::Hash;

use crate::{
    model::{Format, Mode, Operation, Stage},
    wire::Compression,
};

/// A label whose values are a closed set that the compiler knows.
pub trait Label: Copy + 'static {
    /// Every value of the type, in the order of the enum.
    const ALL: &'static [Self];

    /// Returns its place in [`ALL`](Self::ALL).
    fn index(self) -> usize;

    /// Returns the label value.
    fn value(self) -> &'static str;
}

/// The labels of one metric, in the order of the catalogue.
pub trait Labels: Copy {
    /// Returns the value of each label.
    fn values(self) -> impl IntoIterator<Item = &'static str>;
}

/// Labels whose combinations are all known to the compiler.
pub trait ClosedLabels: Labels + 'static {
    /// Returns every combination, in the order of [`index`](Self::index).
    fn all() -> impl Iterator<Item = Self>;

    /// Returns the place of this combination among all.
    fn index(self) -> usize;
}

/// Labels with values that come up while the server runs.
pub trait OpenLabels: Labels + Eq + Hash {}

impl Labels for () {
    fn values(self) -> impl IntoIterator<Item = &'static str> {
        []
    }
}

impl OpenLabels for () {}

impl Labels for &'static str {
    fn values(self) -> impl IntoIterator<Item = &'static str> {
        [self]
    }
}

impl OpenLabels for &'static str {}

impl Labels for (&'static str, &'static str) {
    fn values(self) -> impl IntoIterator<Item = &'static str> {
        [self.0, self.1]
    }
}

impl OpenLabels for (&'static str, &'static str) {}

impl<L: Label> Labels for L {
    fn values(self) -> impl IntoIterator<Item = &'static str> {
        [self.value()]
    }
}

impl<L: Label> ClosedLabels for L {
    fn all() -> impl Iterator<Item = Self> {
        L::ALL.iter().copied()
    }

    fn index(self) -> usize {
        Label::index(self)
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    fn values(self) -> impl IntoIterator<Item = &'static str> {
        [self.0.value(), self.1.value()]
    }
}

impl<A: Label, B: Label> ClosedLabels for (A, B) {
    fn all() -> impl Iterator<Item = Self> {
        A::ALL
            .iter()
            .flat_map(|&first| B::ALL.iter().map(move |&second| (first, second)))
    }

    fn index(self) -> usize {
        self.0.index() * B::ALL.len() + self.1.index()
    }
}

impl Label for Stage {
    const ALL: &'static [Self] = &Stage::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::CatchingUp => "catching_up",
            Self::Live => "live",
            Self::Reconnecting => "reconnecting",
        }
    }
}

impl Label for Mode {
    const ALL: &'static [Self] = &[Self::Shared, Self::Dedicated];

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.name()
    }
}

impl Label for Operation {
    const ALL: &'static [Self] = &Operation::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.name()
    }
}

impl Label for Format {
    const ALL: &'static [Self] = &[Self::Bson, Self::Json, Self::CanonicalJson, Self::Struct];

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        match self {
            Self::Bson => "bson",
            Self::Json => "json",
            Self::CanonicalJson => "canonical_json",
            Self::Struct => "struct",
        }
    }
}

impl Label for Compression {
    const ALL: &'static [Self] = &Compression::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices<L: ClosedLabels>() -> Vec<usize> {
        L::all().map(ClosedLabels::index).collect()
    }

    #[test]
    fn every_combination_of_labels_has_its_own_place() {
        for indices in [
            indices::<Stage>(),
            indices::<Mode>(),
            indices::<Operation>(),
            indices::<Format>(),
            indices::<Compression>(),
            indices::<(Stage, Mode)>(),
        ] {
            assert_eq!(indices, (0..indices.len()).collect::<Vec<_>>());
        }
    }
}
