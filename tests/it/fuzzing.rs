//! Runs the fuzz targets for a bounded time: on every input of the corpus, and on thousands of
//! mutations of them.
//!
//! `make fuzz` runs the same functions for longer, guided by coverage. `WEIR_FUZZ_CASES` sets the
//! number of mutations, `WEIR_FUZZ_SEED` their seed.

#[path = "../../fuzz/targets/mod.rs"]
mod targets;

use std::{fs, panic::AssertUnwindSafe, path::PathBuf};

use crate::support::{Figure, tally};

type Run = fn(&[u8]);
type Seeds = fn() -> Vec<(&'static str, Vec<u8>)>;

/// The prefix of corpus files that code generates; the others were found by fuzzing.
const SEED_PREFIX: &str = "seed-";

fn corpus(target: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.join("fuzz/corpus").join(target)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |it| it.parse().expect("it is a number"))
}

/// Runs a target, and prints the input on which it fails.
fn run_on(run: Run, what: &str, input: &[u8]) {
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run(input)));
    if let Err(panic) = outcome {
        eprintln!("this failed on {what}: {input:?}");
        std::panic::resume_unwind(panic);
    }
}

fn holds(target: &str, run: Run, cases: u64) {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(corpus(target)).expect("there is a corpus") {
        let path = entry.expect("the corpus can be read").path();
        let input = fs::read(&path).expect("an input can be read");
        run_on(run, &path.display().to_string(), &input);
        inputs.push(input);
    }
    // In the same order on every file system.
    inputs.sort();
    let cases = number("WEIR_FUZZ_CASES", cases);
    let seed = number("WEIR_FUZZ_SEED", 7);
    let mut mutator = Mutator(fastrand::Rng::with_seed(seed));
    for case in 0..cases {
        let input = mutator.next(&inputs);
        run_on(run, &format!("case {case} of seed {seed}"), &input);
    }
    tally(Figure::BadInputs, cases);
}

/// Mutates inputs, in the same way for the same seed.
struct Mutator(fastrand::Rng);

impl Mutator {
    fn next(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let rng = &mut self.0;
        let mut input = rng.choice(inputs).cloned().unwrap_or_default();
        for _ in 0..rng.usize(1..5) {
            Self::change(rng, &mut input, inputs);
        }
        input
    }

    fn change(rng: &mut fastrand::Rng, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = rng.usize(0..=input.len());
        let end = (at + rng.usize(0..16)).min(input.len());
        match rng.u8(0..8) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << rng.u8(0..8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = *rng.choice(&[0, 1, 3, 4, 5, 0x7f, 0x80, 0xff]).unwrap_or(&0);
                }
            }
            2 => {
                input.drain(at..end);
            }
            3 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            4 => {
                let noise: Vec<u8> = (0..rng.usize(0..8)).map(|_| rng.u8(..)).collect();
                input.splice(at..at, noise);
            }
            // A wrong or right length, on which BSON and protobuf depend.
            5 | 6 => {
                let left = i32::try_from(input.len() - at).unwrap_or(i32::MAX);
                let lengths = [left, left - 1, left + 1, left / 2, 0, -1, 4, 5, i32::MAX];
                let length = *rng.choice(&lengths).unwrap_or(&0);
                let bytes = length.to_le_bytes();
                let room = &mut input[at..];
                let count = room.len().min(4);
                room[..count].copy_from_slice(&bytes[..count]);
            }
            _ => {
                let other = rng.choice(inputs).map_or(&[][..], Vec::as_slice);
                let from = rng.usize(0..=other.len());
                input.truncate(at);
                input.extend(&other[from..]);
            }
        }
    }
}

/// A token is refused, or means what it meant when it was sealed.
#[test]
fn no_token_panics_and_no_altered_token_is_accepted() {
    holds("token", targets::token::run, 10_000);
}

/// No request panics, and a refusal is short and names fields that exist.
#[test]
fn no_request_panics_and_every_refusal_names_its_fields() {
    holds("request", targets::request::run, 5_000);
}

/// For any event the index finds the same filters as evaluating them one by one.
#[test]
fn the_index_and_the_evaluators_agree_on_every_event() {
    holds("filter", targets::filter::run, 300);
}

/// No `_id` panics, and two have the same canonical form exactly if a filter holds them equal.
#[test]
fn equal_ids_have_one_canonical_form_and_no_id_panics() {
    holds("shard", targets::shard::run, 10_000);
}

/// Every event with a position comes out in all formats with all its contents.
#[test]
fn no_event_panics_or_loses_a_field() {
    holds("event", targets::event::run, 4_000);
}

/// Whole events and fragments come out of replies in order, up to the first broken one.
#[test]
fn no_reply_panics_and_valid_events_come_out() {
    holds("reply", targets::reply::run, 10_000);
}

/// No credentials panic, and only exact ones are accepted.
#[test]
fn no_credentials_panic_and_no_altered_ones_are_accepted() {
    holds("credentials", targets::credentials::run, 20_000);
}

fn seeds() -> [(&'static str, Seeds); 7] {
    [
        ("credentials", targets::credentials::seeds),
        ("token", targets::token::seeds),
        ("request", targets::request::seeds),
        ("filter", targets::filter::seeds),
        ("shard", targets::shard::seeds),
        ("event", targets::event::seeds),
        ("reply", targets::reply::seeds),
    ]
}

/// The generated files of the corpus are what the code generates now.
#[test]
fn the_seed_files_of_the_corpus_are_up_to_date() {
    let write = std::env::var_os("WEIR_WRITE_CORPUS").is_some();
    for (target, seeds) in seeds() {
        let folder = corpus(target);
        if write {
            fs::create_dir_all(&folder).expect("a folder can be made");
        }
        for (name, bytes) in seeds() {
            let path = folder.join(format!("{SEED_PREFIX}{name}"));
            if write {
                fs::write(&path, &bytes).expect("a seed can be written");
            }
            let there = fs::read(&path).unwrap_or_default();
            assert_eq!(
                there,
                bytes,
                "{} is of before: run this test with WEIR_WRITE_CORPUS=1",
                path.display()
            );
        }
    }
}
