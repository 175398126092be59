//! A compiled pattern, run within a bound of work.
//!
//! A pattern that matches in linear time may still take thousands of steps for each byte, where a text
//! makes it keep many ends open at once. First runs an automaton that is built as it goes, one step a
//! byte; where the text has it built anew all the time, it gives up, and a slower machine takes over
//! as far as the event's [`Effort`] reaches. What is beyond that is not decided.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use regex_automata::hybrid::dfa::{self, DFA};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures, pikevm};
use regex_automata::util::pool::Pool;
use regex_automata::{Input, Match, MatchKind};
use regex_syntax::hir::Hir;

/// Of a compiled pattern, in bytes.
const MAX_COMPILED_BYTES: usize = 1024 * 1024;
/// Of what a thread keeps while it matches, in bytes; patterns that need more to begin with get it.
const MAX_CACHE_BYTES: usize = 256 * 1024;
/// Of what a thread keeps of that for the next text, in bytes. Ordinary patterns stay far below.
const MAX_KEPT_BYTES: usize = 64 * 1024;
/// How often the automaton is built anew before its yield counts.
const REBUILDS: usize = 2;
/// The bytes of text that a state of the automaton must be good for, once its yield counts: building
/// one costs as much as some hundred steps.
const MIN_YIELD: usize = 256;

/// Steps of the slower machine that the filter of one watch may take for one event: some 20 ms.
const MAX_STEPS: usize = 4 << 20;
/// What giving up costs, as the attempt took its time too.
const GIVING_UP: usize = MAX_STEPS / 16;
/// What a byte of the automaton costs, as it may have been built several times over.
const BUILDING: usize = 4;

/// What is left of the work that one filter may take for one event.
#[derive(Debug)]
pub(in crate::plan) struct Effort {
    steps: Cell<usize>,
    gave_up: Cell<bool>,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort {
            steps: Cell::new(MAX_STEPS),
            gave_up: Cell::new(false),
        }
    }
}

impl Effort {
    /// Whether something was not decided since this was last asked.
    pub(in crate::plan) fn gave_up(&self) -> bool {
        self.gave_up.take()
    }

    /// Notes that something was not decided.
    pub(in crate::plan) fn give_up(&self) {
        self.gave_up.set(true);
    }

    fn spend(&self, steps: usize) {
        self.steps.set(self.steps.get().saturating_sub(steps));
    }

    /// Takes so many steps, or says that there are not as many left.
    fn take(&self, steps: usize) -> Option<()> {
        let left = self.steps.get().checked_sub(steps);
        if left.is_none() {
            self.give_up();
        }
        self.steps.set(left?);
        Some(())
    }
}

/// What a thread works with.
struct Caches {
    fast: dfa::Cache,
    slow: Option<pikevm::Cache>,
}

type MakeCaches =
    Box<dyn Fn() -> Caches + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>;

struct Inner {
    fast: DFA,
    slow: pikevm::PikeVM,
    caches: Pool<Caches, MakeCaches>,
}

/// A compiled pattern. Clones share it.
#[derive(Clone)]
pub(super) struct Engine(Arc<Inner>);

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("states", &self.states())
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn new(pattern: &Hir) -> Result<Engine, String> {
        let limits = thompson::Config::new()
            .nfa_size_limit(Some(MAX_COMPILED_BYTES))
            .which_captures(WhichCaptures::Implicit);
        let nfa: NFA = thompson::Compiler::new()
            .configure(limits)
            .build_from_hir(pattern)
            .map_err(|error| match error.size_limit() {
                Some(limit) => format!(
                    "takes more than {} KiB when compiled; repeat less or smaller parts",
                    limit / 1024
                ),
                None => format!("cannot be compiled: {error}"),
            })?;
        let fast = DFA::builder()
            .configure(
                DFA::config()
                    .match_kind(MatchKind::LeftmostFirst)
                    .cache_capacity(MAX_CACHE_BYTES)
                    .skip_cache_capacity_check(true)
                    .minimum_cache_clear_count(Some(REBUILDS))
                    .minimum_bytes_per_state(Some(MIN_YIELD)),
            )
            .build_from_nfa(nfa.clone())
            .map_err(|error| format!("cannot be compiled: {error}"))?;
        let slow = pikevm::PikeVM::new_from_nfa(nfa)
            .map_err(|error| format!("cannot be compiled: {error}"))?;
        let maker = fast.clone();
        let make: MakeCaches = Box::new(move || Caches {
            fast: maker.create_cache(),
            slow: None,
        });
        Ok(Engine(Arc::new(Inner {
            fast,
            slow,
            caches: Pool::new(make),
        })))
    }

    /// The memory that it takes, in bytes.
    pub(super) fn compiled_bytes(&self) -> usize {
        self.0.fast.get_nfa().memory_usage()
    }

    fn states(&self) -> usize {
        self.0.fast.get_nfa().states().len()
    }

    /// Whether the text holds a match; `None` where telling would take too much.
    pub(super) fn is_match(&self, text: &str, effort: &Effort) -> Option<bool> {
        self.first_end(text, effort).map(|end| end.is_some())
    }

    /// Where a match can be known to end, before all others.
    pub(super) fn first_end(&self, text: &str, effort: &Effort) -> Option<Option<usize>> {
        // Whoever has no step left has given up often enough.
        effort.take(1)?;
        let mut caches = self.0.caches.get();
        let before = caches.fast.memory_usage();
        let input = Input::new(text).earliest(true);
        let found = match self.0.fast.try_search_fwd(&mut caches.fast, &input) {
            Ok(found) => Some(found.map(|it| it.offset())),
            Err(_) => {
                effort.spend(GIVING_UP);
                let found = self.find(&mut caches, input, effort);
                found.map(|found| found.map(|it| it.end()))
            }
        };
        let after = caches.fast.memory_usage();
        effort.spend(after.saturating_sub(before).saturating_mul(BUILDING));
        if after > MAX_KEPT_BYTES {
            caches.fast = self.0.fast.create_cache();
        }
        found
    }

    /// Where the leftmost match starts.
    pub(super) fn first_start(&self, text: &str, effort: &Effort) -> Option<Option<usize>> {
        let found = self.find(&mut self.0.caches.get(), Input::new(text), effort);
        found.map(|found| found.map(|it| it.start()))
    }

    fn find(
        &self,
        caches: &mut Caches,
        input: Input<'_>,
        effort: &Effort,
    ) -> Option<Option<Match>> {
        effort.take(input.haystack().len().saturating_mul(self.states()))?;
        let slow = &self.0.slow;
        let cache = caches.slow.get_or_insert_with(|| slow.create_cache());
        Some(slow.find(cache, input))
    }
}
