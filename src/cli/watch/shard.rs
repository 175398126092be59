//! The consumer shard of `--shard`.

use crate::model::Shard;
use crate::pb;

/// One of `count` consumers, written as INDEX/COUNT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardArg {
    index: u32,
    count: u32,
}

impl From<ShardArg> for pb::ConsumerShard {
    fn from(ShardArg { index, count }: ShardArg) -> Self {
        Self { index, count }
    }
}

impl std::str::FromStr for ShardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<ShardArg, String> {
        let max = Shard::MAX_COUNT;
        let parts = text.split_once('/').and_then(|(index, count)| {
            Some((index.trim().parse().ok()?, count.trim().parse().ok()?))
        });
        let Some((index, count)) = parts else {
            return Err(
                "write INDEX/COUNT: 0/5 is the first of five consumers, and 4/5 the last"
                    .to_owned(),
            );
        };
        if !(1..=u32::from(max)).contains(&count) {
            return Err(format!("there can be 1 to {max} consumers, not {count}"));
        }
        if index >= count {
            return Err(format!(
                "consumers are numbered from 0: the last of {count} is {}/{count}",
                count - 1
            ));
        }
        Ok(ShardArg { index, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_an_index_and_a_count() {
        assert_eq!("2/5".parse(), Ok(ShardArg { index: 2, count: 5 }));
        assert_eq!("0 / 1".parse(), Ok(ShardArg { index: 0, count: 1 }));
        for (text, problem) in [
            ("5/5", "the last of 5 is 4/5"),
            ("0/0", "1 to 1024 consumers"),
            ("0/1025", "not 1025"),
            ("", "0/5 is the first"),
            ("2", "0/5 is the first"),
            ("-1/5", "0/5 is the first"),
            ("1/2/3", "0/5 is the first"),
            ("1/99999999999", "0/5 is the first"),
        ] {
            let error = text.parse::<ShardArg>().expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
