//! How long a watch may go on: while its caller's credentials are good, while the policy lets it, and until
//! it has reached its maximum age.
//!
//! A [`Tenure`] is begun before anything about a request is judged, so that whatever changes from then on
//! is noticed: while the watch is being opened, and for as long as it is open. It has no timer of its own;
//! the stream that holds it asks when it wants to be looked at, and is woken by changes.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use crate::{
    auth::Principal,
    error::Error,
    plan::{Operation, Watch},
    policy::{Ask, Verdict},
    rpc::Access,
};

/// How often the clock on the wall is looked at while credentials are to expire by it: it may be set, and
/// it goes on while the machine sleeps.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

/// For how much of its maximum age each watch ends at a moment of its own, so that many that began together
/// do not end together.
const SPREAD: f64 = 0.2;

/// What a watch holds for as long as it may go on.
pub(super) struct Tenure {
    access: Access,
    principal: Arc<Principal>,
    changes: Changes,
    /// What the watch asked for, before it was narrowed to what its caller may watch.
    asked: Option<BTreeSet<Operation>>,
    verdict: Option<Verdict>,
    /// When it will be as old as it may become.
    ends: Option<Instant>,
    /// Says that something has changed, in the task that it was last polled in.
    moved: Option<(Waker, Moved)>,
    over: bool,
}

type Moved = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What moves when someone may no longer watch what it did.
#[derive(Clone)]
struct Changes {
    callers: watch::Receiver<u64>,
    policy: watch::Receiver<u64>,
}

impl Tenure {
    /// Begins it for a caller that has just shown who it is.
    ///
    /// # Errors
    /// When its credentials are no longer good, or no rule of the policy is for it.
    pub(super) fn begin(
        access: &Access,
        principal: &Arc<Principal>,
        max_age: Duration,
    ) -> Result<Self, Error> {
        // Before anything is asked: what moves after this is seen to have moved.
        let changes = Changes {
            callers: access.authenticator.changes(),
            policy: access.policy.changes(),
        };
        let principal = access.authenticator.renew(principal)?;
        access.policy.admit(&principal)?;
        let age = max_age.mul_f64(1.0 - SPREAD * fastrand::f64());
        Ok(Self {
            access: access.clone(),
            principal,
            changes,
            asked: None,
            verdict: None,
            ends: (!max_age.is_zero()).then(|| Instant::now() + age),
            moved: None,
            over: false,
        })
    }

    /// Whose it is.
    pub(super) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Judges a watch, and narrows it to what its caller may see.
    ///
    /// # Errors
    /// When it may not watch that.
    pub(super) fn judge(&mut self, watch: &mut Watch) -> Result<&Verdict, Error> {
        self.asked = watch.operations.take();
        let ask = Ask::of(watch, self.asked.as_ref());
        let verdict = self.access.policy.judge(&self.principal, &ask)?;
        watch.operations.clone_from(&verdict.operations);
        watch.view = Arc::clone(&verdict.view);
        Ok(self.verdict.insert(verdict))
    }

    /// Why the watch has to end now, if it has to; that is told once.
    pub(super) fn look(&mut self, watch: &Watch) -> Option<Error> {
        if self.over {
            return None;
        }
        let error = self.check(watch).err();
        self.over = error.is_some();
        error
    }

    fn check(&mut self, watch: &Watch) -> Result<(), Error> {
        if self.changes.have_moved() {
            self.changes.see();
            self.moved = None;
            self.principal = self.access.authenticator.renew(&self.principal)?;
            let ask = Ask::of(watch, self.asked.as_ref());
            let verdict = self.access.policy.judge(&self.principal, &ask)?;
            let known = self.verdict.replace(verdict);
            let same = known.zip(self.verdict.as_ref());
            if !same.is_some_and(|(known, now)| known.shows_the_same(now)) {
                return Err(Error::AccessChanged);
            }
        }
        if let Some(expires) = self.principal.expires
            && expires <= SystemTime::now()
        {
            return Err(Error::CredentialsExpired);
        }
        match self.ends {
            Some(ends) if ends <= Instant::now() => Err(Error::MaxAge),
            _ => Ok(()),
        }
    }

    /// When it is to be looked at again at the latest, though nothing changes.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        if self.over {
            return None;
        }
        let expires = self.principal.expires.map(|expires| {
            let left = expires.duration_since(SystemTime::now());
            now + left.unwrap_or_default().min(CLOCK_CHECK)
        });
        self.ends.into_iter().chain(expires).min()
    }

    /// Arranges for the stream's task to be woken when something changes. Gives whether something has
    /// already.
    pub(super) fn has_moved(&mut self, context: &mut Context<'_>) -> bool {
        if self.over {
            return false;
        }
        if self.changes.have_moved() {
            return true;
        }
        let waker = context.waker();
        if self
            .moved
            .as_ref()
            .is_some_and(|(it, _)| it.will_wake(waker))
        {
            return false;
        }
        let mut moved: Moved = Box::pin(self.changes.clone().moved());
        let has_moved = moved.as_mut().poll(context) == Poll::Ready(());
        self.moved = Some((waker.clone(), moved));
        has_moved
    }
}

impl Changes {
    fn have_moved(&self) -> bool {
        // Who would move them is gone only when the server is.
        let moved = |it: &watch::Receiver<u64>| it.has_changed().unwrap_or(false);
        moved(&self.callers) || moved(&self.policy)
    }

    fn see(&mut self) {
        self.callers.mark_unchanged();
        self.policy.mark_unchanged();
    }

    async fn moved(mut self) {
        let gone = tokio::select! {
            it = self.callers.changed() => it,
            it = self.policy.changed() => it,
        };
        if gone.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
