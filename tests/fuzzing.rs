//! The fuzz targets, run for a bounded while: on every input of the corpus, and on thousands that are
//! made of them.
//!
//! `make fuzz` runs the same functions for longer, led by what they cover. `WEIR_FUZZ_CASES` says how
//! many inputs are made here, `WEIR_FUZZ_SEED` which.

mod support;
#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::{fs, panic::AssertUnwindSafe, path::PathBuf};

use support::{Figure, tally};

type Run = fn(&[u8]);
type Seeds = fn() -> Vec<(&'static str, Vec<u8>)>;

/// What of the corpus is made by our own code begins so; the rest was found.
const MADE: &str = "seed-";

fn corpus(target: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.join("fuzz/corpus").join(target)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |it| it.parse().expect("it is a number"))
}

/// Runs a target, and shows the input that it fails on.
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
    // In the same order wherever they lie.
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

/// Makes inputs of inputs, the same for the same seed.
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
            // A length that lies, or does not: what BSON and protobuf stand and fall with.
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
fn no_token_panics_and_none_that_was_changed_is_taken() {
    holds("token", targets::token::run, 10_000);
}

/// No request panics, and a refusal names fields that there are, in few enough bytes.
#[test]
fn no_request_panics_and_every_refusal_names_its_fields() {
    holds("request", targets::request::run, 5_000);
}

/// The index finds for any event what the judges say one by one.
#[test]
fn no_event_makes_the_index_and_the_judges_disagree() {
    holds("filter", targets::filter::run, 300);
}

/// Every event with a place comes out in all formats, with all that was in it.
#[test]
fn no_event_panics_and_none_loses_a_field() {
    holds("event", targets::event::run, 4_000);
}

/// Whole events and fragments come out of replies in order, up to the first that is broken.
#[test]
fn no_reply_panics_and_what_is_good_comes_out() {
    holds("reply", targets::reply::run, 10_000);
}

/// Nothing that a caller shows panics, and only what is good to the byte is taken.
#[test]
fn no_credentials_panic_and_none_that_were_changed_are_taken() {
    holds("credentials", targets::credentials::run, 20_000);
}

fn seeds() -> [(&'static str, Seeds); 6] {
    [
        ("credentials", targets::credentials::seeds),
        ("token", targets::token::seeds),
        ("request", targets::request::seeds),
        ("filter", targets::filter::seeds),
        ("event", targets::event::seeds),
        ("reply", targets::reply::seeds),
    ]
}

/// The part of the corpus that is made by code is what the code makes of it now.
#[test]
fn the_seeds_of_the_corpus_are_those_that_the_code_makes() {
    let write = std::env::var_os("WEIR_WRITE_CORPUS").is_some();
    for (target, seeds) in seeds() {
        let folder = corpus(target);
        if write {
            fs::create_dir_all(&folder).expect("a folder can be made");
        }
        for (name, bytes) in seeds() {
            let path = folder.join(format!("{MADE}{name}"));
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
