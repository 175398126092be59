//! The client's deadline of a call, from its `grpc-timeout`.

use std::{cmp, time::Duration};

use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use crate::{error::Error, rpc::unknown_fields::violation};

/// The header that carries the time until the deadline.
const HEADER: &str = "grpc-timeout";

/// The share of a call's time by which its failure is sent before the deadline, as a divisor, and the
/// longest such time on an idle machine. A client gives a call up by its own clock, which began earlier than the
/// server's: without a head start the client's own words win most of the time, and tonic's client says CANCELLED
/// (`TimeoutExpired` in tonic 0.14). Once a stream is open, clients with a clock say DEADLINE_EXCEEDED
/// themselves, so streams use all of their time.
const HEAD_START_DIVISOR: u32 = 3;
const MAX_HEAD_START: Duration = Duration::from_millis(100);

/// The largest head start as a share of a call's time, as a divisor.
const MOST_HEAD_START_DIVISOR: u32 = 2;

/// The time by which a service's own answer to a deadline comes before that of the layer in front of it.
/// The service records how its call ended; the layer only stands in for services that know no deadline.
const PRECEDENCE: Duration = Duration::from_millis(5);

/// The time at which a call was read from its connection, in the extensions of its request. On a busy machine
/// the service begins with it later.
#[derive(Debug, Clone, Copy)]
pub struct Arrival(pub Instant);

/// The deadline of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// The time at which a stream ends.
    pub(super) at: Instant,
    /// The time by which a call that has no response yet fails: a little before the deadline.
    pub(super) answer_by: Instant,
}

impl Deadline {
    /// Returns the deadline of a call that arrived at one time and is begun with `now`; `None` if it has none,
    /// or one beyond all clocks. On a busy machine the answer waits as the call did, so that its head start
    /// grows by that time.
    ///
    /// # Errors
    /// The header is malformed, or it was sent twice.
    pub(super) fn from_headers(
        headers: &HeaderMap,
        arrival: Instant,
        now: Instant,
    ) -> Result<Option<Self>, Error> {
        let mut values = headers.get_all(HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let refused = |problem: String| violation(HEADER.to_owned(), problem);
        if values.next().is_some() {
            return Err(refused("was sent twice: send it once".to_owned()));
        }
        let timeout = value.to_str().ok().and_then(parse).ok_or_else(|| {
            refused(format!(
                "{value:?} is malformed: send one to eight digits and a unit, one of H, M, S, m, u and n, \
                 such as 250m for 250 milliseconds"
            ))
        })?;
        let head_start = cmp::min(timeout / HEAD_START_DIVISOR, MAX_HEAD_START);
        let waited = now.saturating_duration_since(arrival);
        let head_start = cmp::min(head_start + waited, timeout / MOST_HEAD_START_DIVISOR);
        let deadline = arrival.checked_add(timeout).map(|at| Self {
            at,
            answer_by: at - head_start,
        });
        Ok(deadline)
    }

    /// Returns the time by which the layer in front of a service fails a call without a response.
    pub(super) fn answer_for_service_by(&self) -> Instant {
        cmp::min(self.answer_by + PRECEDENCE, self.at)
    }

    /// Returns the time at which the layer in front of a service ends a stream.
    pub(super) fn end_for_service_at(&self) -> Instant {
        self.at + PRECEDENCE
    }
}

/// Waits for a result until it is too late to answer the client in time.
///
/// # Errors
/// The deadline is near, or the future's own error.
pub(super) async fn answer_in_time<T>(
    deadline: Option<Deadline>,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(deadline) = deadline else {
        return future.await;
    };
    let result = timeout_at(deadline.answer_by, future).await;
    result.unwrap_or(Err(Error::DeadlineExceeded))
}

/// Parses a timeout as the gRPC specification defines it: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_follow_the_grpc_specification() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1ä", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    fn of(values: &[&str]) -> Result<Option<Deadline>, Error> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, value.parse().unwrap());
        }
        let now = Instant::now();
        Deadline::from_headers(&headers, now, now)
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_due_before_the_deadline_and_at_most_100_ms() {
        for (timeout, at, answer_by) in [("150m", 150, 100), ("10S", 10_000, 9_900), ("0S", 0, 0)] {
            let deadline = of(&[timeout]).unwrap().unwrap();
            let after = |time: Instant| time.duration_since(Instant::now()).as_millis();
            assert_eq!(after(deadline.at), at, "{timeout}");
            assert_eq!(after(deadline.answer_by), answer_by, "{timeout}");
            assert!(deadline.answer_for_service_by() >= deadline.answer_by);
            assert!(deadline.answer_for_service_by() <= deadline.at);
        }
        assert!(of(&[]).unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waited_to_be_begun_with_is_answered_earlier() {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(HEADER),
            http::HeaderValue::from_static("150m"),
        )]);
        let arrival = Instant::now();
        for (waited, answer_by) in [(0, 100), (10, 90), (20, 80), (60, 75)] {
            let now = arrival + Duration::from_millis(waited);
            let deadline = Deadline::from_headers(&headers, arrival, now)
                .unwrap()
                .unwrap();
            let after = |time: Instant| time.duration_since(arrival).as_millis();
            assert_eq!(after(deadline.at), 150, "{waited}");
            assert_eq!(after(deadline.answer_by), answer_by, "{waited}");
        }
    }

    #[tokio::test]
    async fn a_deadline_that_is_unclear_is_refused() {
        for values in [&["1"][..], &["1S", "2S"], &["1S", "1S"]] {
            let refused = of(values).expect_err("it is refused").to_string();
            assert!(refused.starts_with("grpc-timeout: "), "{refused}");
        }
    }
}
