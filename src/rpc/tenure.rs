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
    source::ClusterTime,
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
    renewed: bool,
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
            renewed: false,
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
            self.renewed = true;
            let ask = Ask::of(watch, self.asked.as_ref());
            let verdict = self.access.policy.judge(&self.principal, &ask)?;
            let known = self.verdict.replace(verdict);
            let both = known.as_ref().zip(self.verdict.as_ref());
            if !both.is_some_and(|(known, now)| known.shows_the_same(now)) {
                let goes_on = both.is_some_and(|(known, now)| {
                    known.view.token_audience == now.view.token_audience
                });
                // Where its tokens do not go on, their time does, which the stream knows.
                let after = (!goes_on).then(ClusterTime::default);
                return Err(Error::AccessChanged { after });
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

    /// Whether its caller was asked about again since this was asked last.
    pub(super) fn was_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::{auth::Authenticator, pb, plan::RequestLimits, policy::Policy};

    const OPEN: &str = "version: 1\nrules: [{name: a, namespaces: [shop.orders]}]";
    const FILTERED: &str =
        "version: 1\nrules: [{name: a, namespaces: [shop.orders], filter: {a: 1}}]";
    const MORE: &str =
        "version: 1\nrules: [{name: a, namespaces: [shop.orders], operations: [insert, drop]}]";
    const NOBODY: &str = "version: 1\nrules: []";

    struct Scene {
        access: Access,
        principal: Arc<Principal>,
    }

    impl Scene {
        fn new(policy: &str) -> Self {
            Self {
                access: Access {
                    authenticator: Authenticator::anonymous(),
                    policy: Policy::of_text(policy),
                },
                principal: Arc::new(Principal::anonymous()),
            }
        }

        fn begin(&self) -> Tenure {
            let begun = Tenure::begin(&self.access, &self.principal, Duration::ZERO);
            begun.expect("it may begin")
        }
    }

    fn watch() -> Watch {
        let request = pb::WatchRequest {
            database: "shop".to_owned(),
            collections: vec!["orders".to_owned()],
            ..pb::WatchRequest::default()
        };
        Watch::from_request(request, &RequestLimits::default()).expect("a watch")
    }

    /// Whatever moment of an opening the policy changes in, the stream notices.
    #[tokio::test]
    async fn a_change_is_noticed_whenever_it_comes_during_an_opening() {
        for when in 0..3 {
            let scene = Scene::new(OPEN);
            let change = |at| {
                if when == at {
                    scene.access.policy.replace_by_text(NOBODY);
                }
            };
            let (mut tenure, mut watch) = (scene.begin(), watch());
            change(0);
            let judged = tenure.judge(&mut watch).map(drop);
            if when == 0 {
                assert!(matches!(judged, Err(Error::AccessDenied(_))), "{judged:?}");
                continue;
            }
            judged.expect("allowed");
            change(1);
            if when == 2 {
                assert!(tenure.look(&watch).is_none());
            }
            change(2);
            let mut context = Context::from_waker(Waker::noop());
            assert!(tenure.has_moved(&mut context));
            let error = tenure.look(&watch);
            assert!(matches!(error, Some(Error::AccessDenied(_))), "{error:?}");
            assert!(tenure.look(&watch).is_none(), "an end is told once");
        }
    }

    #[tokio::test]
    async fn who_would_see_something_else_ends_and_who_would_not_goes_on() {
        // And whether it ends with its tokens of no use.
        for (before, after, ends) in [
            (OPEN, OPEN, None),
            (OPEN, FILTERED, Some(true)),
            (FILTERED, OPEN, Some(true)),
            (FILTERED, FILTERED, None),
            (OPEN, MORE, Some(false)),
            (MORE, MORE, None),
        ] {
            let scene = Scene::new(before);
            let (mut tenure, mut watch) = (scene.begin(), watch());
            tenure.judge(&mut watch).expect("allowed");
            // More than once: each is held against the one before.
            for _ in 0..2 {
                scene.access.policy.replace_by_text(after);
                let error = tenure.look(&watch);
                let ended = error.map(|error| match error {
                    Error::AccessChanged { after } => after.is_some(),
                    other => panic!("{other}"),
                });
                assert_eq!(ended, ends, "{before} {after}");
                if ended.is_some() {
                    break;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_by_a_change() {
        let scene = Scene::new(OPEN);
        let (mut tenure, mut watch) = (scene.begin(), watch());
        tenure.judge(&mut watch).expect("allowed");
        let mut waits = tokio::spawn(async move {
            std::future::poll_fn(|context| {
                if tenure.has_moved(context) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            tenure.look(&watch)
        });
        let early = tokio::time::timeout(Duration::from_secs(3600), &mut waits).await;
        assert!(early.is_err(), "nothing has changed");
        scene.access.policy.replace_by_text(NOBODY);
        let woken = tokio::time::timeout(Duration::from_secs(1), waits).await;
        let error = woken.expect("it is woken").expect("it ends");
        assert!(matches!(error, Some(Error::AccessDenied(_))), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_is_reached_in_its_last_fifth_and_by_each_at_another_moment() {
        let scene = Scene::new(OPEN);
        let age = Duration::from_secs(1_000);
        let now = Instant::now();
        let mut ends: Vec<Duration> = (0..1_000)
            .map(|_| {
                let begun = Tenure::begin(&scene.access, &scene.principal, age);
                let end = begun.expect("it may begin").next_look(now);
                end.expect("it has an end").duration_since(now)
            })
            .collect();
        ends.sort();
        assert!(ends[0] >= age.mul_f64(0.8) && ends[999] <= age, "{ends:?}");
        assert!(ends[999] - ends[0] > age.mul_f64(0.15), "{ends:?}");
        let (mut tenure, mut watch) = (scene.begin(), watch());
        tenure.judge(&mut watch).expect("allowed");
        assert_eq!(tenure.next_look(now), None, "without an age it has no end");
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_end_at_their_moment_and_the_clock_is_looked_at_now_and_then() {
        let scene = Scene::new(OPEN);
        let begin = |expires: SystemTime| {
            let principal = Arc::new(Principal {
                expires: Some(expires),
                ..Principal::anonymous()
            });
            let mut tenure =
                Tenure::begin(&scene.access, &principal, Duration::ZERO).expect("good");
            let mut watch = watch();
            tenure.judge(&mut watch).expect("allowed");
            (tenure, watch)
        };
        let now = Instant::now();
        let (mut tenure, watch) = begin(SystemTime::now() + Duration::from_secs(3600));
        assert!(tenure.look(&watch).is_none());
        assert_eq!(tenure.next_look(now), Some(now + CLOCK_CHECK));
        let (mut tenure, watch) = begin(SystemTime::now() - Duration::from_secs(1));
        assert_eq!(tenure.next_look(now), Some(now));
        let error = tenure.look(&watch);
        assert!(
            matches!(error, Some(Error::CredentialsExpired)),
            "{error:?}"
        );
        assert_eq!(tenure.next_look(now), None, "it is over");
    }
}
