//! Tests of encrypted tokens and of the keys.

use super::*;

/// MongoDB's token contains the document key. An encrypted token must not contain it, and two encrypted
/// tokens must have nothing in common except their length.
#[test]
fn an_encrypted_token_reveals_nothing() {
    let key = "82".repeat(100);
    let open = token_context().encode(&event(&key), None, None);
    assert!(open.windows(key.len()).any(|it| it == key.as_bytes()));
    let encrypting = token_context().with_keys(Some(keys(&[KEY])));
    let context = |name: &str| encrypting.encode(&event(name), None, None);
    let (one, other) = (context(&key), context(&format!("{}83", "82".repeat(99))));
    assert_eq!(one, context(&key), "equal positions have equal tokens");
    assert_eq!(one.len(), other.len());
    let same = one
        .iter()
        .zip(&other)
        .skip(5)
        .filter(|(a, b)| a == b)
        .count();
    assert!(
        same < one.len() / 8,
        "{same} of {} bytes are the same",
        one.len()
    );
    for part in open.windows(8) {
        assert!(!one.windows(8).any(|it| it == part));
    }
}

/// Only a server with a key can make a token, and only one with the same key can read it.
#[test]
fn a_token_with_an_unknown_key_is_refused_with_that_reason() {
    let encoded = |lines: &[&str]| {
        let token_context = token_context().with_keys(Some(keys(lines)));
        token_context.encode(&event("8265"), None, None)
    };
    let error = |encoded: &Bytes, keys: Option<&TokenKeys>| {
        ResumeToken::decode(encoded, keys).unwrap_err().to_string()
    };
    let both = keys(&[OTHER_KEY, KEY]);
    let one = encoded(&[KEY]);
    assert!(ResumeToken::decode(&one, Some(&both)).is_ok());
    assert_eq!(one, encoded(&[KEY, OTHER_KEY]), "the first key encrypts");
    assert_ne!(one, encoded(&[OTHER_KEY, KEY]));
    assert!(error(&one, None).contains("no token keys"));
    assert!(error(&one, Some(&keys(&[OTHER_KEY]))).contains("does not have"));
    // With the identifier of another key.
    let mut renamed = one.to_vec();
    renamed[..5].copy_from_slice(&encoded(&[OTHER_KEY])[..5]);
    assert!(error(&renamed.into(), Some(&both)).contains("changed"));
    // An unencrypted token can be read with any keys.
    let open = token_context().encode(&event("8265"), None, None);
    assert!(
        !ResumeToken::decode(&open, Some(&both))
            .unwrap()
            .was_encrypted()
    );
}

/// A doubly encrypted envelope is invalid.
#[test]
fn an_encrypted_envelope_must_contain_a_plain_one() {
    let keys = keys(&[KEY]);
    let mut out = BytesMut::new();
    let inner =
        token_context()
            .with_keys(Some(Arc::clone(&keys)))
            .encode(&event("8265"), None, None);
    keys.encrypt(&mut out, |out| out.extend_from_slice(&inner));
    let problem = ResumeToken::decode(&out, Some(&keys)).unwrap_err();
    assert!(problem.to_string().contains("version") || problem.to_string().contains("checksum"));
    let mut empty = BytesMut::new();
    keys.encrypt(&mut empty, |_| {});
    ResumeToken::decode(&empty, Some(&keys)).unwrap_err();
}

#[test]
fn keys_are_lines_of_base64_with_optional_comments() {
    let text = format!("# of May\n\n  {KEY}  # the first\r\n{OTHER_KEY}\n#\n");
    let keys = TokenKeys::parse(&text).unwrap();
    let token_context = token_context().with_keys(Some(Arc::new(keys)));
    let expected = self::token_context().with_keys(Some(self::keys(&[KEY, OTHER_KEY])));
    assert_eq!(
        token_context.encode(&event("8265"), None, None),
        expected.encode(&event("8265"), None, None)
    );
}

/// The message names the line and never its content.
#[test]
fn a_bad_key_is_reported_by_line_and_never_shown() {
    for (text, words) in [
        (String::new(), "no key"),
        ("# nothing\n\n".to_owned(), "no key"),
        (format!("{KEY}\nsecret!"), "line 2 is not base64"),
        (format!("\n{}", &KEY[..43]), "line 2 is not base64"),
        ("c2VjcmV0".to_owned(), "line 1 has 6 bytes"),
        (format!("{KEY}{KEY}"), "line 1 is not base64"),
        (
            format!("{KEY}\n\n{OTHER_KEY}\n{KEY}"),
            "line 4 has the same key as line 1",
        ),
    ] {
        let problem = TokenKeys::parse(&text).unwrap_err();
        assert!(problem.contains(words), "{problem}");
        assert!(
            !problem.contains("secret") && !problem.contains("QUFB"),
            "{problem}"
        );
    }
    let debug = format!("{:?}", keys(&[KEY]));
    assert!(
        !debug.contains("AAAA") && !debug.contains("65, 65"),
        "{debug}"
    );
}
