//! A compiled pattern that runs within a bound of work.
//!
//! Matching in linear time can still take thousands of steps for each byte, if a text keeps many partial
//! matches alive. A lazy DFA runs first, with one step for each byte. If the text makes it rebuild its
//! cache too often, it gives up, and the slower PikeVM runs as far as the [`WorkBudget`] of the event
//! allows. Beyond that the result is undecided.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use regex_automata::hybrid::dfa::{self, DFA};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures, pikevm};
use regex_automata::util::look::LookMatcher;
use regex_automata::util::pool::Pool;
use regex_automata::{Input, MatchKind};
use regex_syntax::hir::Hir;

/// The largest compiled pattern, in bytes.
const MAX_COMPILED_BYTES: usize = 1024 * 1024;
/// The DFA cache of a thread during a match, in bytes. A pattern that needs more at the start gets it.
const MAX_CACHE_BYTES: usize = 256 * 1024;
/// The DFA cache that a thread keeps for the next text, in bytes. Ordinary patterns stay far below it.
const MAX_KEPT_BYTES: usize = 64 * 1024;
/// The number of cache clears after which the DFA may give up.
const MIN_CACHE_CLEARS: usize = 2;
/// The bytes of text for each DFA state below which the DFA gives up. Building a state costs as much as
/// a few hundred steps.
const MIN_BYTES_PER_STATE: usize = 256;

/// The PikeVM steps that one filter may take for one event: about 20 ms.
const MAX_STEPS: usize = 4 << 20;
/// The steps charged when the DFA gives up, for the time that it took.
const GIVE_UP_COST: usize = MAX_STEPS / 16;
/// The steps charged for each byte of DFA cache, which may have been built several times.
const BUILD_COST_PER_BYTE: usize = 4;

/// The PikeVM steps that one filter may take for one event where others wait: about 0.3 ms.
const BRIEF_STEPS: usize = MAX_STEPS / 64;

/// The work that is left for one filter on one event.
#[derive(Debug)]
pub(in crate::filter) struct WorkBudget {
    steps: Cell<usize>,
    /// With fewer steps left, more were needed than [`BRIEF_STEPS`].
    brief_until: usize,
    undecided: Cell<bool>,
    took_long: Cell<bool>,
}

impl Default for WorkBudget {
    fn default() -> WorkBudget {
        WorkBudget::of(MAX_STEPS)
    }
}

impl WorkBudget {
    /// Returns the budget of an evaluation for which others wait.
    pub(in crate::filter) fn brief() -> WorkBudget {
        WorkBudget::of(BRIEF_STEPS)
    }

    fn of(steps: usize) -> WorkBudget {
        WorkBudget {
            steps: Cell::new(steps),
            brief_until: steps.saturating_sub(BRIEF_STEPS),
            undecided: Cell::new(false),
            took_long: Cell::new(false),
        }
    }

    /// Returns whether the values took more work than a brief evaluation may, or would have. Steps are counted and not
    /// time, so that a thread that has to wait changes nothing.
    pub(in crate::filter) fn took_long(&self) -> bool {
        self.took_long.get()
    }

    /// Returns whether a value was undecided since the last call, and resets that.
    pub(in crate::filter) fn take_undecided(&self) -> bool {
        self.undecided.take()
    }

    /// Notes that a value is undecided.
    pub(in crate::filter) fn mark_undecided(&self) {
        self.undecided.set(true);
    }

    fn spend(&self, steps: usize) {
        self.steps.set(self.steps.get().saturating_sub(steps));
    }

    /// Takes the steps; `None` if not enough are left.
    fn take(&self, steps: usize) -> Option<()> {
        let left = self.steps.get().checked_sub(steps);
        if left.is_none_or(|left| left < self.brief_until) {
            self.took_long.set(true);
        }
        if left.is_none() {
            self.mark_undecided();
        }
        self.steps.set(left?);
        Some(())
    }
}

/// The buffers that a thread matches with.
struct Caches {
    dfa: dfa::Cache,
    pike_vm: Option<pikevm::Cache>,
}

type CacheFactory =
    Box<dyn Fn() -> Caches + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>;

struct Inner {
    dfa: DFA,
    pike_vm: pikevm::PikeVM,
    caches: Pool<Caches, CacheFactory>,
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
    /// Compiles the pattern. `newline` is the byte that ends a line, to `^` and `$` in multi-line mode.
    ///
    /// # Errors
    /// A description of the problem, such as a compiled size above the limit.
    pub(super) fn new(pattern: &Hir, newline: u8) -> Result<Engine, String> {
        let mut look_matcher = LookMatcher::new();
        look_matcher.set_line_terminator(newline);
        let limits = thompson::Config::new()
            .nfa_size_limit(Some(MAX_COMPILED_BYTES))
            .look_matcher(look_matcher)
            .which_captures(WhichCaptures::None);
        let nfa: NFA = thompson::Compiler::new()
            .configure(limits)
            .build_from_hir(pattern)
            .map_err(|error| match error.size_limit() {
                Some(limit) => format!(
                    "takes more than {} KiB when compiled; repeat fewer or smaller parts",
                    limit / 1024
                ),
                None => format!("cannot be compiled: {error}"),
            })?;
        let dfa = DFA::builder()
            .configure(
                DFA::config()
                    .match_kind(MatchKind::LeftmostFirst)
                    .cache_capacity(MAX_CACHE_BYTES)
                    .skip_cache_capacity_check(true)
                    .minimum_cache_clear_count(Some(MIN_CACHE_CLEARS))
                    .minimum_bytes_per_state(Some(MIN_BYTES_PER_STATE)),
            )
            .build_from_nfa(nfa.clone())
            .map_err(|error| format!("cannot be compiled: {error}"))?;
        let pike_vm = pikevm::PikeVM::new_from_nfa(nfa)
            .map_err(|error| format!("cannot be compiled: {error}"))?;
        let maker = dfa.clone();
        let make: CacheFactory = Box::new(move || Caches {
            dfa: maker.create_cache(),
            pike_vm: None,
        });
        Ok(Engine(Arc::new(Inner {
            dfa,
            pike_vm,
            caches: Pool::new(make),
        })))
    }

    /// Returns the memory that the pattern takes, in bytes.
    pub(super) fn compiled_bytes(&self) -> usize {
        self.0.dfa.get_nfa().memory_usage()
    }

    /// Returns the number of states, and so of the steps for each byte at the most.
    pub(super) fn states(&self) -> usize {
        self.0.dfa.get_nfa().states().len()
    }

    /// Returns whether the text holds a match; `None` if that is undecided.
    pub(super) fn is_match(&self, text: &[u8], budget: &WorkBudget) -> Option<bool> {
        // With an empty budget, do not even start the DFA.
        budget.take(1)?;
        let mut caches = self.0.caches.get();
        let before = caches.dfa.memory_usage();
        let input = Input::new(text).earliest(true);
        let found = match self.0.dfa.try_search_fwd(&mut caches.dfa, &input) {
            Ok(found) => Some(found.is_some()),
            Err(_) => {
                budget.spend(GIVE_UP_COST);
                self.search_slowly(&mut caches, input, budget)
            }
        };
        let after = caches.dfa.memory_usage();
        budget.spend(
            after
                .saturating_sub(before)
                .saturating_mul(BUILD_COST_PER_BYTE),
        );
        if after > MAX_KEPT_BYTES {
            caches.dfa = self.0.dfa.create_cache();
        }
        found
    }

    fn search_slowly(
        &self,
        caches: &mut Caches,
        input: Input<'_>,
        budget: &WorkBudget,
    ) -> Option<bool> {
        budget.take(input.haystack().len().saturating_mul(self.states()))?;
        let pike_vm = &self.0.pike_vm;
        let cache = caches.pike_vm.get_or_insert_with(|| pike_vm.create_cache());
        Some(pike_vm.is_match(cache, input))
    }
}
