use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
const HEALTH_WATCH_PATH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION_PATH: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

fn layer() -> ConcurrencyLayer {
    ConcurrencyLayer::new(10, TIMEOUT, Arc::new(Metrics::new()))
}

fn request(path: &str, body: Body) -> Request<Body> {
    Request::post(path)
        .version(http::Version::HTTP_2)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .body(body)
        .unwrap()
}

/// Returns the time until a request times out that sends `frames` frames, one each `pause`, and then
/// nothing.
async fn time_until_timeout(path: &str, frames: u32, pause: Duration) -> Duration {
    let frames = tokio_stream::iter(0..frames).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))
    });
    let body = StreamBody::new(frames.chain(futures::stream::pending()));
    let service = tower::service_fn(|request: Request<Body>| async move {
        let mut body = request.into_body();
        let status = loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => break status,
                None => panic!("the body ended"),
            }
        };
        Ok::<_, Infallible>(status.into_http())
    });
    let started = Instant::now();
    let response = layer().layer(service).call(request(path, Body::new(body)));
    let response = tokio::time::timeout(TIMEOUT * 10, response).await;
    let status = Status::from_header_map(response.unwrap().unwrap().headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_health_check_request_times_out_within_a_second() {
    let time_until_timeout = time_until_timeout(HEALTH_CHECK_PATH, 0, TIMEOUT).await;
    assert!(
        time_until_timeout <= Duration::from_secs(2),
        "{time_until_timeout:?}"
    );
}

/// A client may pause between two requests, but not without limit.
#[tokio::test(start_paused = true)]
async fn reflection_times_out_when_no_request_follows() {
    let pause = TIMEOUT - Duration::from_secs(1);
    let time_until_timeout = time_until_timeout(REFLECTION_PATH, 3, pause).await;
    assert!(
        time_until_timeout >= pause * 3 + TIMEOUT,
        "{time_until_timeout:?}"
    );
    assert!(
        time_until_timeout <= pause * 3 + TIMEOUT * 2,
        "{time_until_timeout:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_waits_for_its_request_unless_many_do() {
    let service = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let mut service = layer().layer(service);
    let endless = || {
        let frames = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
        let mut request = request(HEALTH_CHECK_PATH, Body::new(StreamBody::new(frames)));
        let soon = http::HeaderValue::from_static("soon");
        request.headers_mut().insert("grpc-timeout", soon);
        request
    };
    let begin = Instant::now();
    service.call(endless()).await.unwrap();
    assert!(begin.elapsed() > Duration::from_millis(50));
    let waiting: Vec<_> = (0..MAX_WAITING_REFUSALS)
        .map(|_| service.call(endless()))
        .collect();
    let begin = Instant::now();
    let refused = service.call(endless()).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let status = Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    drop(waiting);
    let begin = Instant::now();
    service.call(endless()).await.unwrap();
    assert!(begin.elapsed() > Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_a_service_waits_without_the_permit_of_its_call() {
    let service = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Status::unauthenticated("who is it?").into_http())
    });
    let layer = ConcurrencyLayer::new(1, TIMEOUT, Arc::new(Metrics::new()));
    let mut service = layer.layer(service);
    let watch = |body| request("/weir.v1.WatchService/Watch", body);
    let endless = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Status>>());
    let mut waiting = service.call(watch(Body::new(endless)));
    let polled = std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx)));
    assert!(polled.await.is_pending());
    for _ in 0..2 {
        let response = service.call(watch(Body::empty())).await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    let status = Status::from_header_map(waiting.await.unwrap().headers()).unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
}

/// The text of a refusal waits until its client lets it be sent, which may be never.
#[tokio::test]
async fn texts_that_no_client_reads_are_bounded_in_number() {
    let service = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let mut service = layer().layer(service);
    let mut get = async || {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let refused = service.call(request).await.unwrap();
        assert_eq!(refused.status(), http::StatusCode::UNSUPPORTED_MEDIA_TYPE);
        refused.into_body()
    };
    let mut unread = Vec::new();
    for _ in 0..MAX_WAITING_REFUSALS {
        unread.push(get().await);
    }
    assert!(get().await.is_end_stream());
    for body in [unread.remove(0), unread.remove(0)] {
        assert!(!body.collect().await.unwrap().to_bytes().is_empty());
    }
    assert!(!get().await.is_end_stream());
}

/// Opens calls of one path until one is rejected, and checks that the other paths still accept calls.
#[tokio::test]
async fn health_checks_health_watches_and_reflection_have_separate_limits() {
    for (exhausted, max) in [
        (HEALTH_CHECK_PATH, 5_000),
        (HEALTH_WATCH_PATH, 500),
        (REFLECTION_PATH, 500),
    ] {
        let service = tower::service_fn(|_: Request<Body>| async {
            let frames = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
            Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(frames))))
        });
        let mut service = layer().layer(service);
        let mut open = Vec::new();
        for _ in 0..max {
            let response = service
                .call(request(exhausted, Body::empty()))
                .await
                .unwrap();
            assert!(Status::from_header_map(response.headers()).is_none());
            open.push(response);
        }
        for path in [
            HEALTH_CHECK_PATH,
            HEALTH_WATCH_PATH,
            REFLECTION_PATH,
            "/weir.v1.WatchService/Watch",
        ] {
            let response = service.call(request(path, Body::empty())).await.unwrap();
            let refused = Status::from_header_map(response.headers()).is_some();
            assert_eq!(refused, path == exhausted, "{path}, {exhausted}");
        }
    }
}
