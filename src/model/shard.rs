//! The share of the documents that one of several equal consumers watches.

/// One of 2 to [`MAX_COUNT`](Self::MAX_COUNT) equal consumers of one scope. Each document belongs to exactly one of
/// them, by the hash of its `_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    index: u16,
    count: u16,
}

impl Shard {
    /// The largest number of consumers.
    pub const MAX_COUNT: u16 = 1_024;

    /// Creates the consumer with this index of `count`. `None` if `index` is not below `count`, if `count` is above
    /// the largest, and if it is 1, as the only consumer gets everything.
    #[must_use]
    pub fn new(index: u16, count: u16) -> Option<Shard> {
        let valid = (2..=Self::MAX_COUNT).contains(&count) && index < count;
        valid.then_some(Shard { index, count })
    }

    /// The number of this consumer, from 0.
    #[must_use]
    pub fn index(self) -> u16 {
        self.index
    }

    /// The number of consumers.
    #[must_use]
    pub fn count(self) -> u16 {
        self.count
    }

    /// Returns whether a document whose `_id` has this hash belongs to the consumer.
    #[must_use]
    pub fn contains(self, id_hash: u64) -> bool {
        Self::index_of(id_hash, self.count) == Some(self.index)
    }

    /// Returns the index of the consumer that a hash belongs to, `None` without consumers.
    #[must_use]
    pub fn index_of(id_hash: u64, count: u16) -> Option<u16> {
        let remainder = id_hash.checked_rem(count.into())?;
        u16::try_from(remainder).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_below_the_count_and_one_consumer_is_no_shard() {
        assert_eq!(Shard::new(0, 0), None);
        assert_eq!(Shard::new(0, 1), None);
        assert_eq!(Shard::new(2, 2), None);
        assert_eq!(Shard::new(0, Shard::MAX_COUNT + 1), None);
        let last = Shard::new(1_023, Shard::MAX_COUNT).unwrap();
        assert_eq!((last.index(), last.count()), (1_023, 1_024));
    }

    #[test]
    fn every_hash_belongs_to_exactly_one_consumer() {
        for count in [2, 3, 7, 1_024] {
            let shards: Vec<Shard> = (0..count)
                .map(|index| Shard::new(index, count).unwrap())
                .collect();
            for hash in [0, 1, 5, u64::MAX, u64::MAX - 1, 1 << 63] {
                let owners = shards.iter().filter(|shard| shard.contains(hash));
                let owners: Vec<u16> = owners.map(|shard| shard.index()).collect();
                assert_eq!(owners, [(hash % u64::from(count)) as u16]);
            }
        }
    }
}
