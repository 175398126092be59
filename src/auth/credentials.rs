//! The credentials in a request's headers.

use http::{HeaderMap, header::AUTHORIZATION};

use super::principal::Method;
use crate::error::Error;

/// The header with an API key.
pub const API_KEY_HEADER: &str = "x-api-key";

/// The maximum length of a token or key, in bytes.
const MAX_CREDENTIAL_BYTES: usize = 8 << 10;

/// Credentials that are not verified yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credentials<'a> {
    None,
    /// From the header `authorization`.
    Bearer(&'a str),
    /// From the header `x-api-key`.
    ApiKey(&'a str),
}

/// Returns the credentials of a request, which may have only one kind. Errors never quote the credentials.
pub(super) fn extract(headers: &HeaderMap) -> Result<Credentials<'_>, (Method, Error)> {
    let refused = |method, why| Err((method, Error::CredentialsInvalid(why)));
    let mut bearers = headers.get_all(AUTHORIZATION).iter();
    let mut keys = headers.get_all(API_KEY_HEADER).iter();
    let (bearer, key) = match (bearers.next(), keys.next()) {
        (None, None) => return Ok(Credentials::None),
        (Some(_), Some(_)) => {
            let why =
                "the request has both an authorization and an x-api-key header: send only one";
            return refused(Method::None, why);
        }
        one => one,
    };
    if bearers.next().is_some() || keys.next().is_some() {
        return refused(
            Method::None,
            "a credential header is sent more than once: send it once",
        );
    }
    if let Some(key) = key {
        return match key.to_str() {
            Ok(key) if is_token(key) => Ok(Credentials::ApiKey(key)),
            _ => refused(
                Method::Key,
                "the x-api-key header is not a valid key: send only letters, digits and -._~+/=",
            ),
        };
    }
    let bearer = bearer.and_then(|it| it.to_str().ok()).unwrap_or_default();
    match bearer.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let token = token.trim_matches(' ');
            if is_token(token) {
                Ok(Credentials::Bearer(token))
            } else {
                refused(
                    Method::None,
                    "the authorization header has no valid token: send only letters, digits and -._~+/=",
                )
            }
        }
        _ => refused(
            Method::None,
            "the authorization header must be \"Bearer TOKEN\"",
        ),
    }
}

/// Returns whether a text may be a token or key: characters of RFC 6750, and not too long.
pub(super) fn is_token(text: &str) -> bool {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (1..=MAX_CREDENTIAL_BYTES).contains(&text.len()) && text.bytes().all(in_alphabet)
}

/// Returns whether a token has the three parts of a JWT.
pub(super) fn looks_like_jwt(token: &str) -> bool {
    token.bytes().filter(|&byte| byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn extracted(headers: &[(&'static str, &[u8])]) -> Result<String, &'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        match extract(&map) {
            Ok(Credentials::None) => Ok("nothing".to_owned()),
            Ok(Credentials::Bearer(token)) => Ok(format!("bearer {token}")),
            Ok(Credentials::ApiKey(key)) => Ok(format!("key {key}")),
            Err((_, Error::CredentialsInvalid(why))) => Err(why),
            Err((_, error)) => panic!("{error}"),
        }
    }

    #[test]
    fn a_single_credential_header_is_accepted_in_any_spelling() {
        assert_eq!(extracted(&[]), Ok("nothing".to_owned()));
        for scheme in ["Bearer", "bearer", "BEARER", "Bearer "] {
            let header = format!("{scheme} a.b-c_d~e+f/g==");
            let expected = Ok("bearer a.b-c_d~e+f/g==".to_owned());
            assert_eq!(extracted(&[("authorization", header.as_bytes())]), expected);
        }
        assert_eq!(
            extracted(&[("x-api-key", b"abc")]),
            Ok("key abc".to_owned())
        );
    }

    #[test]
    fn ambiguous_or_malformed_headers_are_rejected() {
        let long = [b'a'; MAX_CREDENTIAL_BYTES + 1];
        let mut bearer = b"Bearer ".to_vec();
        bearer.extend_from_slice(&long);
        for headers in [
            &[("authorization", &b"Bearer a"[..]), ("x-api-key", b"b")][..],
            &[
                ("authorization", b"Bearer a"),
                ("authorization", b"Bearer a"),
            ],
            &[("x-api-key", b"a"), ("x-api-key", b"a")],
            &[("authorization", b"")],
            &[("authorization", b"Bearer")],
            &[("authorization", b"Bearer ")],
            &[("authorization", b"Basic YTpi")],
            &[("authorization", b"a.b.c")],
            &[("authorization", b"Bearer a b")],
            &[("authorization", b"Bearer a,b")],
            &[("authorization", b"Bearer \xc3\xa4")],
            &[("authorization", b"Bearer\ta")],
            &[("authorization", &bearer)],
            &[("x-api-key", b"")],
            &[("x-api-key", b"a b")],
            &[("x-api-key", &long)],
        ] {
            extracted(headers).expect_err("it was accepted");
        }
        let mut longest = b"Bearer ".to_vec();
        longest.extend_from_slice(&long[1..]);
        extracted(&[("authorization", &longest)]).unwrap();
    }
}
