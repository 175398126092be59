//! The rules of gRPC over HTTP/2 for the head of a call, checked before anything else sees it.

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tonic::body::Body;

use crate::{
    error::{Error, truncate},
    rpc::unknown_fields::violation,
};

/// The largest metadata of a call in bytes, counted as HTTP/2 counts a header list: name, value and 32
/// bytes for each entry (RFC 9113, section 6.5.2). Twice what gRPC's own implementations accept by default.
const MAX_METADATA_BYTES: usize = 16 << 10;

/// The largest header list that HTTP/2 decodes, in bytes. It is larger than [`MAX_METADATA_BYTES`], so that
/// metadata beyond that gets a status with a reason: HTTP/2 itself answers with 431 alone.
pub const MAX_HEADER_LIST_BYTES: u32 = 128 << 10;

/// The bytes that HTTP/2 counts for each header beyond its name and value.
const HEADER_OVERHEAD: usize = 32;

/// The most that a refusal repeats of a request, in bytes. HTTP/2 lets a client send a long value again with a
/// single byte.
const MAX_SHOWN_BYTES: usize = 200;

/// The one content type of a protobuf message, as the answer to others names it.
const CONTENT_TYPE: &str = "application/grpc+proto";

/// Returns the response to a call that is no gRPC call with protobuf messages. Its client would not
/// understand a gRPC status, so the specification requires an HTTP status.
pub(super) fn refuse_other_protocols<B>(request: &Request<B>) -> Option<Response<Body>> {
    let mut content_types = request.headers().get_all(header::CONTENT_TYPE).iter();
    let (status, problem) = if request.method() != Method::POST {
        let method = truncate(request.method().as_str(), MAX_SHOWN_BYTES);
        let problem = format!("{method} is no gRPC call: use POST");
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, problem)
    } else if let Some(problem) = match (content_types.next(), content_types.next()) {
        (Some(content_type), None) if is_protobuf(content_type) => None,
        (Some(content_type), None) => {
            let shown = truncate(&format!("{content_type:?}"), MAX_SHOWN_BYTES);
            Some(format!("the content type {shown} is not supported"))
        }
        (Some(_), Some(_)) => Some("the content type was sent twice".to_owned()),
        (None, _) => Some("the content type is missing".to_owned()),
    } {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, problem)
    } else if request.version() < Version::HTTP_2 {
        let problem = format!("{:?} is too old", request.version());
        (StatusCode::HTTP_VERSION_NOT_SUPPORTED, problem)
    } else {
        return None;
    };
    let text = format!(
        "{problem}. This port speaks gRPC over HTTP/2: POST with content-type {CONTENT_TYPE}\n"
    );
    let mut refusal = Response::new(Body::new(text));
    *refusal.status_mut() = status;
    let headers = refusal.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, plain);
    headers.insert(header::ACCEPT, HeaderValue::from_static(CONTENT_TYPE));
    Some(refusal)
}

/// Returns whether a content type is `application/grpc` or `application/grpc+proto`, with or without
/// parameters. Media types are compared without case (RFC 9110, section 8.3.1).
fn is_protobuf(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next();
    let essence = essence.unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/grpc")
        || essence.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
}

/// Checks the size of a call's metadata.
///
/// # Errors
/// It is larger than [`MAX_METADATA_BYTES`]. The error names the largest entry and not its value, which may
/// be a secret.
pub(super) fn check_metadata(headers: &HeaderMap) -> Result<(), Error> {
    let size = |(name, value): (&header::HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + HEADER_OVERHEAD
    };
    let bytes: usize = headers.iter().map(size).sum();
    if bytes <= MAX_METADATA_BYTES {
        return Ok(());
    }
    let largest = headers.iter().max_by_key(|entry| size(*entry));
    let largest = largest.map_or("", |(name, _)| name.as_str());
    Err(violation(
        "metadata".to_owned(),
        format!(
            "has {bytes} bytes, and its largest entry is {largest}: send at most {MAX_METADATA_BYTES} bytes"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn content_types_are_compared_as_media_types() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("APPLICATION/gRPC ; a=b", true),
            ("application/grpc+proto;a", true),
            ("application/grpc-web", false),
            ("application/grpc+json", false),
            ("application/grpc+protobuf", false),
            ("application/grp", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(content_type);
            assert_eq!(is_protobuf(&value), expected, "{content_type}");
        }
    }

    #[tokio::test]
    async fn a_refusal_repeats_little_of_a_long_request() {
        let long = "X".repeat(60_000);
        let post = Request::post("/").header(header::CONTENT_TYPE, &long);
        let method = Method::from_bytes(long.as_bytes()).unwrap();
        let other = Request::builder().method(method).uri("/");
        for request in [post, other] {
            let refusal = refuse_other_protocols(&request.body(()).unwrap()).unwrap();
            let text = refusal.into_body().collect().await.unwrap().to_bytes();
            assert!(text.len() < 1_000, "{}", text.len());
        }
    }

    #[test]
    fn metadata_at_its_limit_is_accepted_and_a_byte_more_is_not() {
        let with = |bytes: usize| {
            let value = HeaderValue::from_str(&"x".repeat(bytes)).unwrap();
            HeaderMap::from_iter([(header::HeaderName::from_static("x-a"), value)])
        };
        let most = MAX_METADATA_BYTES - HEADER_OVERHEAD - 3;
        assert!(check_metadata(&with(most)).is_ok());
        let refused = check_metadata(&with(most + 1)).expect_err("it is refused");
        assert!(refused.to_string().contains("x-a"), "{refused}");
    }
}
