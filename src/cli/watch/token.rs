//! Resume tokens as text: opaque bytes, printed as base64url.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;

/// A resume token given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(pub Bytes);

/// Returns a token as base64url without padding, which no shell needs quoted.
pub fn encode(token: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(token)
}

/// Decodes base64 or base64url, with or without padding. Returns `None` if the text is neither, or empty.
pub fn decode(text: &str) -> Option<Bytes> {
    let text = text.trim_end_matches('=');
    if text.is_empty() {
        return None;
    }
    URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| STANDARD_NO_PAD.decode(text))
        .ok()
        .map(Bytes::from)
}

/// Decodes hexadecimal digits. Returns `None` if the text is anything else, or empty.
fn decode_hex(text: &str) -> Option<Bytes> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        })
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}

impl std::str::FromStr for Token {
    type Err = String;

    /// Tries hexadecimal first. A base64 token that consists only of hex digits would be misread, but only 22
    /// of the 64 base64 characters are hex digits, and tokens have dozens of characters.
    fn from_str(text: &str) -> Result<Token, String> {
        let text = text.trim();
        decode_hex(text).or_else(|| decode(text)).map(Token).ok_or_else(|| {
            "not a resume token: write it in base64 (as `resumeToken` in `--output json`) or hexadecimal"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_decoded_from_hex_base64url_or_base64() {
        let bytes: &[u8] = &[0xfb, 0xff, 0x00];
        for text in ["fbff00", "FBFF00", "-_8A", "+/8A", " -_8A "] {
            assert_eq!(text.parse::<Token>().unwrap().0, bytes, "{text}");
        }
        assert_eq!(encode(bytes), "-_8A");
        assert_eq!("_w==".parse::<Token>().unwrap().0, &[0xff][..]);
        for text in ["", "=", "a b", "żó", "abcde"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
