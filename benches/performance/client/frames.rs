//! HTTP/2 frames made by hand, for what no HTTP/2 library sends.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const WATCH: &str = "/weir.v1.WatchService/Watch";

/// Encodes one frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short");
    let mut out = length.to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// The headers that open a call, and more of them.
pub fn opening(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let common = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "weir"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    literals(common.iter().chain(more).copied())
}

/// Encodes headers as HPACK literals without indexing.
pub fn literals<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        out.push(0);
        text(name, &mut out);
        text(value, &mut out);
    }
    out
}

fn text(text: &str, out: &mut Vec<u8>) {
    let length = text.len();
    if length < 127 {
        out.push(u8::try_from(length).expect("it is short"));
    } else {
        out.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).expect("it is below 128") | 128);
            rest /= 128;
        }
        out.push(u8::try_from(rest).expect("it is below 128"));
    }
    out.extend(text.as_bytes());
}

/// A message with gRPC's prefix.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a message is short");
    [&[0], &length.to_be_bytes()[..], bytes].concat()
}
