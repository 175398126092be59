//! What a request's headers show of who calls.

use http::{HeaderMap, header::AUTHORIZATION};

use super::Method;
use crate::error::Error;

/// The header of API keys.
pub const API_KEY_HEADER: &str = "x-api-key";

/// The longest token or key that is looked at, in bytes.
const MAX_BYTES: usize = 8 << 10;

/// What was shown, not judged yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    Nothing,
    /// In `authorization`.
    Bearer(&'a str),
    /// In `x-api-key`.
    Key(&'a str),
}

/// Finds the one thing that is shown. What is wrong is told without a word of it.
pub(super) fn shown(headers: &HeaderMap) -> Result<Shown<'_>, (Method, Error)> {
    let refused = |method, why| Err((method, Error::CredentialsInvalid(why)));
    let mut bearers = headers.get_all(AUTHORIZATION).iter();
    let mut keys = headers.get_all(API_KEY_HEADER).iter();
    let (bearer, key) = match (bearers.next(), keys.next()) {
        (None, None) => return Ok(Shown::Nothing),
        (Some(_), Some(_)) => {
            let why = "there are both an authorization and an x-api-key header";
            return refused(Method::None, why);
        }
        shown => shown,
    };
    if bearers.next().is_some() || keys.next().is_some() {
        return refused(Method::None, "a header is there more than once");
    }
    if let Some(key) = key {
        return match key.to_str() {
            Ok(key) if is_token(key) => Ok(Shown::Key(key)),
            _ => refused(Method::Key, "the x-api-key header can't be one"),
        };
    }
    let bearer = bearer.and_then(|it| it.to_str().ok()).unwrap_or_default();
    match bearer.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let token = token.trim_matches(' ');
            if is_token(token) {
                Ok(Shown::Bearer(token))
            } else {
                refused(Method::None, "the authorization header holds no token")
            }
        }
        _ => refused(
            Method::None,
            "the authorization header must be \"Bearer TOKEN\"",
        ),
    }
}

/// Whether a text may be a token or a key: RFC 6750's alphabet, and not too long.
pub(super) fn is_token(text: &str) -> bool {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(in_alphabet)
}

/// Whether a token has the three parts of a JWT.
pub(super) fn looks_like_jwt(token: &str) -> bool {
    token.bytes().filter(|&byte| byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(headers: &[(&'static str, &[u8])]) -> Result<String, &'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        match shown(&map) {
            Ok(Shown::Nothing) => Ok("nothing".to_owned()),
            Ok(Shown::Bearer(token)) => Ok(format!("bearer {token}")),
            Ok(Shown::Key(key)) => Ok(format!("key {key}")),
            Err((_, Error::CredentialsInvalid(why))) => Err(why),
            Err((_, error)) => panic!("{error}"),
        }
    }

    #[test]
    fn one_header_of_one_kind_is_taken_however_its_scheme_is_spelled() {
        assert_eq!(of(&[]), Ok("nothing".to_owned()));
        for scheme in ["Bearer", "bearer", "BEARER", "Bearer "] {
            let header = format!("{scheme} a.b-c_d~e+f/g==");
            let expected = Ok("bearer a.b-c_d~e+f/g==".to_owned());
            assert_eq!(of(&[("authorization", header.as_bytes())]), expected);
        }
        assert_eq!(of(&[("x-api-key", b"abc")]), Ok("key abc".to_owned()));
    }

    #[test]
    fn what_is_doubtful_is_refused_and_not_passed_over() {
        let long = [b'a'; MAX_BYTES + 1];
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
            of(headers).expect_err("it was taken");
        }
        let mut longest = b"Bearer ".to_vec();
        longest.extend_from_slice(&long[1..]);
        of(&[("authorization", &longest)]).unwrap();
    }
}
