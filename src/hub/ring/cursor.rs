//! One watcher's place in a ring.

use std::{ops::Range, sync::Arc};

use crate::{
    error::Error,
    hub::{
        audience::Member,
        hits::Next,
        segment::{Run, Segment},
        sync::lock,
    },
    metrics::Stage,
    plan::Judge,
    source::ClusterTime,
};

use super::{Invalidation, Ring, Seq, Tail, state::Content, state::State};

/// How many segments a watcher looks through by itself before it lets others run.
const LOOKS: usize = 8;

/// A watcher's place. Dropping it takes the watcher out of the ring's audience.
#[derive(Debug)]
pub(in crate::hub) struct Cursor {
    ring: Arc<Ring>,
    member: Member,
    judge: Option<Arc<Judge>>,
    /// What is to be read next.
    at: Seq,
    /// Events of before this time are not wanted.
    since: Option<ClusterTime>,
    /// The stage that the watcher was told last.
    told: Option<Stage>,
    /// A time that the watcher was told before it came here.
    told_time: Option<ClusterTime>,
    /// The round in which it is counted as having read everything.
    idle: Option<u64>,
}

/// What there is to read.
#[derive(Debug)]
pub(in crate::hub) enum Read {
    /// Events that the watcher takes.
    Run(Run),
    /// The feed goes on in another stage.
    Stage(Stage, &'static str),
    /// The watched collection or database is gone.
    Invalidated(Invalidation),
    /// Nothing now.
    Nothing,
    /// There is more to look through: come again.
    Later,
    /// What follows is no longer in the ring.
    Fallen,
    /// The feed has ended, and everything before that has been read.
    Ended(Error),
}

enum Found {
    Read(Read),
    /// Nobody has looked at these events for this watcher; the segment's first has that number.
    Look(Arc<Segment>, Seq, Range<usize>),
}

impl Cursor {
    pub(super) fn new(
        ring: Arc<Ring>,
        member: Member,
        judge: Option<Arc<Judge>>,
        at: Seq,
        since: Option<ClusterTime>,
    ) -> Self {
        Self {
            ring,
            member,
            judge,
            at,
            since,
            told: None,
            told_time: None,
            idle: None,
        }
    }

    /// What the watcher was told before it came here: the stage, and a time up to which it was told of
    /// progress.
    pub(in crate::hub) fn knows(&mut self, stage: Option<Stage>, progress: Option<ClusterTime>) {
        self.told = stage;
        self.told_time = progress;
    }

    /// Takes what there is to read.
    pub(in crate::hub) fn read(&mut self) -> Read {
        for _ in 0..LOOKS {
            let read = match self.find() {
                Found::Read(read) => read,
                Found::Look(segment, base, range) => {
                    let Some(judge) = &self.judge else {
                        return Read::Ended(Error::Internal);
                    };
                    match Run::judged(&segment, base, range, judge) {
                        Some(run) => Read::Run(run),
                        None => continue,
                    }
                }
            };
            match (read, self.since) {
                (Read::Run(run), Some(since)) => {
                    if let Some(run) = run.since(since) {
                        self.since = None;
                        return Read::Run(run);
                    }
                }
                (Read::Invalidated(it), Some(since)) if it.position.time() < since => {}
                (read, _) => return read,
            }
        }
        Read::Later
    }

    /// Gives back the events of a run from one on: they are to be read again.
    pub(in crate::hub) fn put_back(&mut self, run: &Run, at: usize) {
        self.at = run.seq(at);
    }

    /// Where the feed is, if this watcher has read everything up to there and it is not before where
    /// the watcher itself began.
    pub(in crate::hub) fn tail_if_read(&mut self) -> Option<Tail> {
        let mut state = lock(&self.ring.state);
        if let Some(group) = self.member.group {
            let head = state.head();
            let hits = state.hits_of(group);
            hits.forget_before(head);
            if hits.next(self.at) == Next::Nothing {
                self.at = state.next;
            }
        }
        if self.at < state.next {
            return None;
        }
        let tail = state.tail();
        let time = tail.position.time();
        let early = |bound: Option<ClusterTime>| bound.is_some_and(|bound| time < bound);
        if early(self.since) || early(self.told_time) {
            return None;
        }
        self.since = None;
        self.told_time = None;
        Some(tail)
    }

    fn find(&mut self) -> Found {
        let ring = Arc::clone(&self.ring);
        let mut state = lock(&ring.state);
        self.claim_read(&ring, &mut state);
        let (stage, reason) = state.stage;
        let told = self.told;
        // That a feed lags is told at once; the rest when it is true for this watcher as well.
        let news = told != Some(stage) && stage != Stage::Opening;
        if news && stage == Stage::CatchingUp {
            self.told = Some(stage);
            return Found::Read(Read::Stage(stage, reason));
        }
        let found = match self.member.group {
            None => self.find_any(&state),
            Some(group) => {
                let head = state.head();
                state.hits_of(group).forget_before(head);
                self.find_hit(&mut state, group)
            }
        };
        if let Found::Read(Read::Nothing) = found {
            self.at = state.next;
            self.claim_read(&ring, &mut state);
            self.idle = Some(state.enter_idle(self.member.group, self.idle));
            ring.tell_writer(&mut state);
            if news {
                self.told = Some(stage);
                return Found::Read(Read::Stage(stage, reason));
            }
            if let Some(why) = &state.ended {
                return Found::Read(Read::Ended(why.clone()));
            }
        }
        found
    }

    /// Everything before its place has been read, and not given back: the ring need not keep it for
    /// want of a reader.
    fn claim_read(&self, ring: &Ring, state: &mut State) {
        if self.at > state.furthest {
            state.furthest = self.at;
            ring.tell_writer(state);
        }
    }

    /// What comes next, whatever it is.
    fn find_any(&mut self, state: &State) -> Found {
        if self.at < state.head() {
            return Found::Read(Read::Fallen);
        }
        let Some(item) = state.item_at(self.at).filter(|item| self.at < item.end()) else {
            return Found::Read(Read::Nothing);
        };
        let from = (self.at - item.first) as usize;
        self.at = item.end();
        Found::Read(match &item.content {
            Content::Events(segment) => {
                let events = segment.events().len();
                Read::Run(Run::range(Arc::clone(segment), item.first, from, events))
            }
            Content::Invalidated(invalidation) => Read::Invalidated(invalidation.clone()),
        })
    }

    /// What comes next of the events that the watcher's group takes.
    fn find_hit(&mut self, state: &mut State, group: usize) -> Found {
        let at = match state.hits_of(group).next(self.at) {
            Next::Nothing => return Found::Read(Read::Nothing),
            Next::Unknown(_) if self.at < state.head() => return Found::Read(Read::Fallen),
            Next::Unknown(floor) => return self.look(state, floor),
            Next::From(at) => at,
        };
        let from = self.at;
        let runs = || state.hits_ref(group).runs_from(at);
        let first = runs().next().map_or(from, |run| run.first.max(from));
        let Some(item) = state.item_at(first) else {
            return Found::Read(Read::Fallen);
        };
        let read = match &item.content {
            Content::Invalidated(invalidation) => {
                self.at = item.end();
                Read::Invalidated(invalidation.clone())
            }
            Content::Events(segment) => {
                let mut picks = Vec::new();
                for run in runs().take_while(|run| run.first < item.end()) {
                    let (start, end) = (run.first.max(from), run.end.min(item.end()));
                    picks.extend((start..end).map(|seq| ((seq - item.first) as u32, run.crossing)));
                    self.at = end;
                }
                Read::Run(Run::some(Arc::clone(segment), item.first, picks))
            }
        };
        Found::Read(read)
    }

    /// Events that came before the group's list begins.
    fn look(&mut self, state: &State, floor: Seq) -> Found {
        let Some(item) = state.item_at(self.at) else {
            return Found::Read(Read::Fallen);
        };
        let from = self.at;
        match &item.content {
            Content::Events(segment) => {
                self.at = item.end().min(floor);
                let range = (from - item.first) as usize..(self.at - item.first) as usize;
                Found::Look(Arc::clone(segment), item.first, range)
            }
            Content::Invalidated(invalidation) => {
                self.at = item.end();
                Found::Read(Read::Invalidated(invalidation.clone()))
            }
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let mut audience = lock(&self.ring.audience);
        let gone = audience.leave(self.member);
        let mut state = lock(&self.ring.state);
        state.leave_idle(self.member.group, self.idle);
        if let Some(group) = gone {
            state.drop_hits(group);
        }
        // With one less to read it, the oldest may go.
        self.ring.tell_writer(&mut state);
    }
}
