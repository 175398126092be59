//! The lease of an open watch: it ends when its caller's credentials are no longer valid, when the policy no
//! longer allows the watch, or when the watch reaches its maximum age.
//!
//! An [`AuthorizationLease`] starts before the request is authorized, so no later change is missed, neither
//! while the watch opens nor while it is open. It has no timer of its own: the stream that holds it asks for
//! the time of the next check, and is woken by changes.

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
    model::Operation,
    pipeline::Watch,
    policy::{AccessRequest, Decision},
    rpc::access::Access,
    source::ClusterTime,
};

/// The interval at which the wall clock is compared with the expiry of credentials: the clock may be set,
/// and it runs on while the machine sleeps.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The fraction of the maximum age over which the ends of watches are spread at random, so that watches that
/// opened together do not end together.
const MAX_AGE_JITTER: f64 = 0.2;

/// The authorization of one open watch.
pub(super) struct AuthorizationLease {
    access: Access,
    principal: Arc<Principal>,
    changes: ChangeSignals,
    /// The requested operations, before they were narrowed to the allowed ones.
    requested_operations: Option<BTreeSet<Operation>>,
    /// `true` if the watch has stages of its own, even while they are not part of it yet.
    pipeline: bool,
    /// Without the row filter, which the watch has.
    decision: Option<Decision>,
    /// The time at which the watch reaches its maximum age.
    max_age_at: Option<Instant>,
    /// Completes on the next change; registered with the waker that it was last polled with.
    change_future: Option<(Waker, ChangeFuture)>,
    renewed: bool,
    ended: bool,
}

type ChangeFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The signals that credentials or the policy have changed.
#[derive(Clone)]
struct ChangeSignals {
    credentials: watch::Receiver<u64>,
    policy: watch::Receiver<u64>,
}

impl AuthorizationLease {
    /// Starts the lease of a caller that has just been authenticated.
    ///
    /// # Errors
    /// Fails if the credentials are no longer valid, or no rule of the policy applies to the caller.
    pub(super) fn begin(
        access: &Access,
        principal: &Arc<Principal>,
        max_age: Duration,
    ) -> Result<Self, Error> {
        // Subscribe before anything is checked, so that no change in between is missed.
        let changes = ChangeSignals {
            credentials: access.authenticator.changes(),
            policy: access.policy.changes(),
        };
        let principal = access.authenticator.revalidate(principal)?;
        access.policy.admit(&principal)?;
        let age = max_age.mul_f64(1.0 - MAX_AGE_JITTER * fastrand::f64());
        Ok(Self {
            access: access.clone(),
            principal,
            changes,
            requested_operations: None,
            pipeline: false,
            decision: None,
            max_age_at: (!max_age.is_zero()).then(|| Instant::now() + age),
            change_future: None,
            renewed: false,
            ended: false,
        })
    }

    /// The caller.
    pub(super) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Requires that the policy allows the watch stages of its own, now and whenever it changes.
    pub(super) fn require_pipeline(&mut self) {
        self.pipeline = true;
    }

    /// Authorizes a watch and narrows it to what the caller may see.
    ///
    /// # Errors
    /// Fails if the policy denies the watch.
    pub(super) fn authorize(&mut self, watch: &mut Watch) -> Result<&Decision, Error> {
        self.requested_operations = watch.operations.take();
        let mut decision = self.decide(watch)?;
        decision.narrow(watch);
        decision.drop_row_filter();
        Ok(self.decision.insert(decision))
    }

    fn decide(&self, watch: &Watch) -> Result<Decision, Error> {
        let mut request = AccessRequest::of(watch, self.requested_operations.as_ref());
        request.pipeline |= self.pipeline;
        let caller = (&*self.principal, &watch.caller);
        self.access.policy.authorize(caller, &request)
    }

    /// Returns why the watch must end now, if it must. Returns an error only once.
    pub(super) fn revalidate(&mut self, watch: &Watch) -> Option<Error> {
        if self.ended {
            return None;
        }
        let error = self.validate(watch).err();
        self.ended = error.is_some();
        error
    }

    fn validate(&mut self, watch: &Watch) -> Result<(), Error> {
        if self.changes.any() {
            self.changes.mark_seen();
            self.change_future = None;
            self.principal = self.access.authenticator.revalidate(&self.principal)?;
            self.renewed = true;
            let now = self.decide(watch)?;
            // Kept while it grants the same, so that nothing of the new one is kept beside it.
            let kept = self.decision.as_ref();
            if !kept.is_some_and(|kept| kept.same_access(watch, &now)) {
                let tokens_stay_valid =
                    kept.is_some_and(|kept| kept.view.token_audience == now.view.token_audience);
                // The old tokens are not valid for the new view; the stream fills in the time to resume at.
                let after = (!tokens_stay_valid).then(ClusterTime::default);
                return Err(Error::AccessChanged { after });
            }
        }
        if let Some(expires) = self.principal.expires
            && expires <= SystemTime::now()
        {
            return Err(Error::CredentialsExpired);
        }
        match self.max_age_at {
            Some(ends) if ends <= Instant::now() => Err(Error::MaxAge),
            _ => Ok(()),
        }
    }

    /// Returns whether the caller was revalidated since the last call of this function.
    pub(super) fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Returns the latest time of the next check, even if nothing changes.
    pub(super) fn next_check(&self, now: Instant) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let expires = self.principal.expires.map(|expires| {
            let left = expires.duration_since(SystemTime::now());
            now + left.unwrap_or_default().min(CLOCK_CHECK_INTERVAL)
        });
        self.max_age_at.into_iter().chain(expires).min()
    }

    /// Registers the stream's task to be woken on a change. Returns whether something has changed already.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> bool {
        if self.ended {
            return false;
        }
        if self.changes.any() {
            return true;
        }
        let waker = context.waker();
        if self
            .change_future
            .as_ref()
            .is_some_and(|(it, _)| it.will_wake(waker))
        {
            return false;
        }
        let mut future: ChangeFuture = Box::pin(self.changes.clone().next());
        let has_changed = future.as_mut().poll(context) == Poll::Ready(());
        self.change_future = Some((waker.clone(), future));
        has_changed
    }
}

impl ChangeSignals {
    fn any(&self) -> bool {
        // The senders are dropped only when the server ends.
        let changed = |it: &watch::Receiver<u64>| it.has_changed().unwrap_or(false);
        changed(&self.credentials) || changed(&self.policy)
    }

    fn mark_seen(&mut self) {
        self.credentials.mark_unchanged();
        self.policy.mark_unchanged();
    }

    async fn next(mut self) {
        let closed = tokio::select! {
            it = self.credentials.changed() => it,
            it = self.policy.changed() => it,
        };
        if closed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::{auth::Authenticator, pb, pipeline::RequestLimits, policy::Policy};

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
                    policy: Policy::from_text(policy),
                },
                principal: Arc::new(Principal::anonymous()),
            }
        }

        fn begin(&self) -> AuthorizationLease {
            let lease = AuthorizationLease::begin(&self.access, &self.principal, Duration::ZERO);
            lease.expect("a lease")
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

    /// The stream notices a policy change at every point of the opening.
    #[tokio::test]
    async fn a_policy_change_at_any_point_of_opening_ends_the_watch() {
        for when in 0..3 {
            let scene = Scene::new(OPEN);
            let change = |at| {
                if when == at {
                    scene.access.policy.replace_with_text(NOBODY);
                }
            };
            let (mut lease, mut watch) = (scene.begin(), watch());
            change(0);
            let authorized = lease.authorize(&mut watch).map(drop);
            if when == 0 {
                assert!(
                    matches!(authorized, Err(Error::AccessDenied(_))),
                    "{authorized:?}"
                );
                continue;
            }
            authorized.expect("allowed");
            change(1);
            if when == 2 {
                assert!(lease.revalidate(&watch).is_none());
            }
            change(2);
            let mut context = Context::from_waker(Waker::noop());
            assert!(lease.poll_changed(&mut context));
            let error = lease.revalidate(&watch);
            assert!(matches!(error, Some(Error::AccessDenied(_))), "{error:?}");
            assert!(
                lease.revalidate(&watch).is_none(),
                "an end is reported once"
            );
        }
    }

    #[tokio::test]
    async fn a_watch_ends_only_if_its_access_changes() {
        // The third value: `Some` if the watch ends, and whether its tokens become invalid.
        for (before, after, ends) in [
            (OPEN, OPEN, None),
            (OPEN, FILTERED, Some(true)),
            (FILTERED, OPEN, Some(true)),
            (FILTERED, FILTERED, None),
            (OPEN, MORE, Some(false)),
            (MORE, MORE, None),
        ] {
            let scene = Scene::new(before);
            let (mut lease, mut watch) = (scene.begin(), watch());
            lease.authorize(&mut watch).expect("allowed");
            // Twice: each decision is compared with the previous one.
            for _ in 0..2 {
                scene.access.policy.replace_with_text(after);
                let error = lease.revalidate(&watch);
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

    /// A row filter may be large, and equal watches share one.
    #[tokio::test]
    async fn the_row_filter_is_kept_by_the_watch_alone() {
        let scene = Scene::new(FILTERED);
        let (mut lease, mut watch) = (scene.begin(), watch());
        lease.authorize(&mut watch).expect("allowed");
        let kept = |lease: &AuthorizationLease| {
            lease.decision.as_ref().map(|it| it.view.row_filter.clone())
        };
        assert!(watch.row_filter.is_some());
        assert_eq!(kept(&lease), Some(None));
        scene.access.policy.replace_with_text(FILTERED);
        assert!(lease.revalidate(&watch).is_none());
        assert_eq!(kept(&lease), Some(None));
        scene
            .access
            .policy
            .replace_with_text(&FILTERED.replace("a: 1", "a: 2"));
        let error = lease.revalidate(&watch);
        assert!(
            matches!(error, Some(Error::AccessChanged { after: None })),
            "{error:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_change_wakes_the_waiting_task() {
        let scene = Scene::new(OPEN);
        let (mut lease, mut watch) = (scene.begin(), watch());
        lease.authorize(&mut watch).expect("allowed");
        let mut waits = tokio::spawn(async move {
            std::future::poll_fn(|context| {
                if lease.poll_changed(context) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            lease.revalidate(&watch)
        });
        let early = tokio::time::timeout(Duration::from_secs(3600), &mut waits).await;
        assert!(early.is_err(), "nothing has changed");
        scene.access.policy.replace_with_text(NOBODY);
        let woken = tokio::time::timeout(Duration::from_secs(1), waits).await;
        let error = woken.expect("it is woken").expect("the task ends");
        assert!(matches!(error, Some(Error::AccessDenied(_))), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn maximum_ages_spread_over_their_last_fifth() {
        let scene = Scene::new(OPEN);
        let age = Duration::from_secs(1_000);
        let now = Instant::now();
        let mut ends: Vec<Duration> = (0..1_000)
            .map(|_| {
                let lease = AuthorizationLease::begin(&scene.access, &scene.principal, age);
                let end = lease.expect("a lease").next_check(now);
                end.expect("it has an end").duration_since(now)
            })
            .collect();
        ends.sort();
        assert!(ends[0] >= age.mul_f64(0.8) && ends[999] <= age, "{ends:?}");
        assert!(ends[999] - ends[0] > age.mul_f64(0.15), "{ends:?}");
        let (mut lease, mut watch) = (scene.begin(), watch());
        lease.authorize(&mut watch).expect("allowed");
        assert_eq!(
            lease.next_check(now),
            None,
            "without a maximum age it has no end"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn expired_credentials_end_a_watch_and_the_clock_is_checked_periodically() {
        let scene = Scene::new(OPEN);
        let begin = |expires: SystemTime| {
            let principal = Arc::new(Principal {
                expires: Some(expires),
                ..Principal::anonymous()
            });
            let mut lease =
                AuthorizationLease::begin(&scene.access, &principal, Duration::ZERO).expect("good");
            let mut watch = watch();
            lease.authorize(&mut watch).expect("allowed");
            (lease, watch)
        };
        let now = Instant::now();
        let (mut lease, watch) = begin(SystemTime::now() + Duration::from_secs(3600));
        assert!(lease.revalidate(&watch).is_none());
        assert_eq!(lease.next_check(now), Some(now + CLOCK_CHECK_INTERVAL));
        let (mut lease, watch) = begin(SystemTime::now() - Duration::from_secs(1));
        assert_eq!(lease.next_check(now), Some(now));
        let error = lease.revalidate(&watch);
        assert!(
            matches!(error, Some(Error::CredentialsExpired)),
            "{error:?}"
        );
        assert_eq!(lease.next_check(now), None, "the lease has ended");
    }
}
