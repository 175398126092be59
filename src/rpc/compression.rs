//! The choice of compression for a call, from its headers.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response};
use tonic::{body::Body, codec::CompressionEncoding};

use crate::{error::Error, wire::Compression};

/// The header that names the encoding of a side's messages.
const ENCODING: &str = "grpc-encoding";
/// The header that lists the encodings that a side can decode.
pub(super) const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// The ways to compress that the operator allows, the preferred one first.
#[derive(Debug, Clone)]
pub(super) struct AllowedCompression(Arc<[Compression]>);

impl AllowedCompression {
    pub(super) fn new(allowed: &[Compression]) -> Self {
        Self(allowed.into())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = CompressionEncoding> {
        self.0.iter().map(|it| it.encoding())
    }

    /// Returns the way to compress the response: the first allowed one that the client accepts.
    pub(super) fn of_response(&self, headers: &HeaderMap) -> Option<Compression> {
        let values = headers.get_all(ACCEPT_ENCODING).iter();
        let accepted: Vec<&str> = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        let mut allowed = self.0.iter().copied();
        allowed.find(|it| accepted.contains(&it.name()))
    }

    /// Returns the encoding of the request.
    ///
    /// # Errors
    /// It is not allowed. The specification wants UNIMPLEMENTED with the list of those that are.
    pub(super) fn of_request(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<CompressionEncoding>, Box<Response<Body>>> {
        let Some(value) = headers.get(ENCODING) else {
            return Ok(None);
        };
        if value == "identity" {
            return Ok(None);
        }
        let mut allowed = self.0.iter().copied();
        if let Some(found) = allowed.find(|it| value == it.name()) {
            return Ok(Some(found.encoding()));
        }
        let list = self.list();
        let error = Error::Unimplemented(format!(
            "messages with grpc-encoding {value:?} can't be read here: use {}",
            list.replace(',', " or ")
        ));
        let mut refusal = error.into_status("").into_http();
        self.put_accepted(refusal.headers_mut());
        Err(Box::new(refusal))
    }

    /// Adds the headers of a response that is compressed in this way, or not at all.
    pub(super) fn put(&self, compression: Option<Compression>, headers: &mut HeaderMap) {
        if let Some(compression) = compression {
            let name = HeaderValue::from_static(compression.name());
            headers.insert(ENCODING, name);
        }
        if !self.0.is_empty() {
            self.put_accepted(headers);
        }
    }

    fn put_accepted(&self, headers: &mut HeaderMap) {
        if let Ok(list) = HeaderValue::from_str(&self.list()) {
            headers.insert(ACCEPT_ENCODING, list);
        }
    }

    fn list(&self) -> String {
        let names = self.0.iter().map(|it| it.name());
        names.chain(["identity"]).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_first_allowed_way_that_the_client_accepts_is_taken() {
        use Compression::{Gzip, Zstd};
        let accepts = |lists: &[&'static str], allowed: &[Compression]| {
            let entries: Vec<_> = lists.iter().map(|list| (ACCEPT_ENCODING, *list)).collect();
            AllowedCompression::new(allowed).of_response(&headers(&entries))
        };
        assert_eq!(accepts(&["gzip, zstd"], &[]), None);
        assert_eq!(accepts(&[], &[Gzip, Zstd]), None);
        assert_eq!(accepts(&["identity,deflate"], &[Gzip, Zstd]), None);
        assert_eq!(
            accepts(&["identity, deflate, gzip"], &[Zstd, Gzip]),
            Some(Gzip)
        );
        assert_eq!(accepts(&["gzip,zstd"], &[Zstd, Gzip]), Some(Zstd));
        assert_eq!(accepts(&["gzip", "zstd"], &[Zstd]), Some(Zstd));
        assert_eq!(accepts(&["gzipped"], &[Gzip]), None);
    }

    #[test]
    fn a_request_in_an_encoding_that_is_not_allowed_is_told_which_ones_are() {
        let allowed = AllowedCompression::new(&[Compression::Gzip]);
        let of = |value| allowed.of_request(&headers(&[(ENCODING, value)]));
        assert_eq!(of("gzip").unwrap(), Some(CompressionEncoding::Gzip));
        assert_eq!(of("identity").unwrap(), None);
        let refused = of("zstd").expect_err("it is not allowed");
        assert_eq!(refused.headers()[ACCEPT_ENCODING], "gzip,identity");
        assert_eq!(refused.headers()["grpc-status"], "12");
        assert!(allowed.of_request(&HeaderMap::new()).unwrap().is_none());
    }
}
