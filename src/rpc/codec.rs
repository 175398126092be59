//! The codec of `Watch`: requests as prost reads them, less what it would pass over in silence;
//! responses as bytes that are ready.

use std::sync::LazyLock;

use bytes::{Buf as _, Bytes};
use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, decode_key, skip_field},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{error::Error, pb, plan::FieldViolation, rpc::MAX_REQUEST_BYTES, wire::Frame};

/// The numbers of `WatchRequest`'s fields, by the very descriptor that it was generated from.
static KNOWN_FIELDS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let descriptors = prost_types::FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET)
        .expect("the descriptors were encoded by the build");
    let messages = descriptors.file.iter().flat_map(|it| &it.message_type);
    let fields = messages
        .filter(|message| message.name() == "WatchRequest")
        .flat_map(|message| &message.field);
    fields
        .filter_map(|field| field.number().try_into().ok())
        .collect()
});

/// An idle watch holds one buffer of the first size; a busy one writes once it has the second.
fn buffers() -> BufferSettings {
    BufferSettings::new(4 << 10, 64 << 10)
}

/// Writes [`Frame`]s and reads [`pb::WatchRequest`]s.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = pb::WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.encoded_len());
        frame.encode(out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for FrameCodec {
    type Item = pb::WatchRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<pb::WatchRequest>, Status> {
        let bytes = bytes.copy_to_bytes(bytes.remaining());
        let request = read(bytes).map_err(|error| error.into_status(""))?;
        Ok(Some(request))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Reads a request whole or refuses it.
///
/// A field that a later version gave a meaning must not be dropped in silence, as protobuf's rules
/// would have it: a watch without the projection or the shard that was asked for is the wrong one.
fn read(bytes: Bytes) -> Result<pb::WatchRequest, Error> {
    if bytes.len() > MAX_REQUEST_BYTES {
        let problem = format!(
            "of {} bytes; at most {MAX_REQUEST_BYTES} are read",
            bytes.len()
        );
        return Err(refused(problem));
    }
    let malformed = |error: DecodeError| refused(format!("malformed: {error}"));
    match unknown_field(bytes.clone()).map_err(malformed)? {
        Some(number) => Err(Error::UnknownField { number }),
        None => pb::WatchRequest::decode(bytes).map_err(malformed),
    }
}

fn refused(description: String) -> Error {
    Error::InvalidRequest(vec![FieldViolation {
        field: "WatchRequest".to_owned(),
        description,
    }])
}

/// The first field that this version has no name for.
fn unknown_field(mut bytes: Bytes) -> Result<Option<u32>, DecodeError> {
    while bytes.has_remaining() {
        let (number, wire_type) = decode_key(&mut bytes)?;
        if !KNOWN_FIELDS.contains(&number) {
            return Ok(Some(number));
        }
        skip_field(wire_type, number, &mut bytes, DecodeContext::default())?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    /// A request as a later version might write it: one more field, a varint.
    fn with_field(number: u32) -> Bytes {
        let mut bytes = request().encode_to_vec();
        prost::encoding::uint32::encode(number, &1, &mut bytes);
        bytes.into()
    }

    fn request() -> pb::WatchRequest {
        pb::WatchRequest {
            database: "shop".to_owned(),
            collections: vec!["orders".to_owned()],
            max_message_bytes: 1 << 20,
            ..pb::WatchRequest::default()
        }
    }

    #[test]
    fn a_request_of_known_fields_is_read() {
        let bytes = request().encode_to_vec().into();
        assert_eq!(read(bytes).expect("it is well-formed"), request());
        assert_eq!(
            read(Bytes::new()).expect("it is well-formed"),
            pb::WatchRequest::default()
        );
    }

    #[test]
    fn a_field_of_a_later_version_is_refused_by_its_number() {
        for number in [7, 11, 20, 21, 22, 5000] {
            let refused = read(with_field(number)).expect_err("it is not known");
            assert_eq!(refused.code(), Code::Unimplemented);
            assert_eq!(refused.reason(), "NOT_IMPLEMENTED");
            assert!(refused.to_string().contains(&format!("field {number} ")));
        }
    }

    #[test]
    fn bytes_that_are_no_request_are_refused() {
        for bytes in [
            &b"\x0a\x05ab"[..],
            b"\xff",
            b"\x00\x01",
            b"\x0f",
            b"\x28\x01",
        ] {
            let refused = read(Bytes::from_static(bytes)).expect_err("it is malformed");
            assert_eq!(refused.code(), Code::InvalidArgument, "{bytes:?}");
        }
    }

    #[test]
    fn a_request_over_the_limit_is_refused_by_its_size() {
        let long = pb::WatchRequest {
            database: "a".repeat(MAX_REQUEST_BYTES),
            ..request()
        };
        let refused = read(long.encode_to_vec().into()).expect_err("it is too long");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.to_string().contains("1048576"), "{refused}");
    }
}
