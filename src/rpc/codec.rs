//! The codecs of the service. Requests are decoded by prost after a check for unknown fields.

use std::marker::PhantomData;

use bytes::{Buf as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

use crate::{
    error::Error,
    pb,
    rpc::unknown_fields::{check, violation},
};

/// The buffer of a stream: 4 KiB while it is idle, written out once it holds 64 KiB.
fn stream_buffers() -> BufferSettings {
    BufferSettings::new(4 << 10, 64 << 10)
}

/// The codec of `GetServerInfo`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServerInfoCodec;

impl Codec for ServerInfoCodec {
    type Encode = pb::GetServerInfoResponse;
    type Decode = pb::GetServerInfoRequest;
    type Encoder = ProstEncoder<pb::GetServerInfoResponse>;
    type Decoder = RequestDecoder<pb::GetServerInfoRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(stream_buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder::new("GetServerInfoRequest")
    }
}

/// Passes the single request of a call on as bytes.
#[derive(Debug)]
pub(super) struct RawRequestDecoder {
    message_name: &'static str,
    has_read: bool,
}

impl RawRequestDecoder {
    pub(super) fn new(message_name: &'static str) -> Self {
        Self {
            message_name,
            has_read: false,
        }
    }
}

impl Decoder for RawRequestDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        if std::mem::replace(&mut self.has_read, true) {
            return Err(sent_twice(self.message_name).into_status(""));
        }
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        stream_buffers()
    }
}

fn sent_twice(message_name: &str) -> Error {
    violation(
        message_name.to_owned(),
        "was sent twice: send one request per call".to_owned(),
    )
}

/// Decodes a request, and rejects unknown fields.
///
/// # Errors
/// It is malformed, has an unknown field, or more parts than any request needs.
pub(super) fn decode_request<T: Message + Default>(
    message_name: &'static str,
    bytes: Bytes,
) -> Result<T, Error> {
    check(message_name, &bytes)?;
    let malformed = |error| violation(message_name.to_owned(), format!("malformed: {error}"));
    T::decode(bytes).map_err(malformed)
}

/// Decodes the single request of a call, and rejects unknown fields.
#[derive(Debug)]
pub(super) struct RequestDecoder<T> {
    message_name: &'static str,
    has_read: bool,
    message_type: PhantomData<fn() -> T>,
}

impl<T> RequestDecoder<T> {
    pub(super) fn new(message_name: &'static str) -> Self {
        Self {
            message_name,
            has_read: false,
            message_type: PhantomData,
        }
    }
}

impl<T: Message + Default> RequestDecoder<T> {
    fn decode_request(&mut self, bytes: Bytes) -> Result<T, Error> {
        if self.has_read {
            return Err(sent_twice(self.message_name));
        }
        let message = decode_request(self.message_name, bytes)?;
        self.has_read = true;
        Ok(message)
    }
}

impl<T: Message + Default> Decoder for RequestDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let bytes = bytes.copy_to_bytes(bytes.remaining());
        let request = self
            .decode_request(bytes)
            .map_err(|error| error.into_status(""))?;
        Ok(Some(request))
    }

    fn buffer_settings(&self) -> BufferSettings {
        stream_buffers()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn decode_request(bytes: Bytes) -> Result<pb::WatchRequest, Error> {
        RequestDecoder::new("WatchRequest").decode_request(bytes)
    }

    /// A request from a later version: one more field, a varint.
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
    fn a_request_with_known_fields_is_decoded() {
        let bytes = request().encode_to_vec().into();
        assert_eq!(decode_request(bytes).expect("it is well-formed"), request());
        assert_eq!(
            decode_request(Bytes::new()).expect("it is well-formed"),
            pb::WatchRequest::default()
        );
    }

    #[test]
    fn an_unknown_field_is_rejected_by_number() {
        for number in [7, 22, 5000] {
            let refused = decode_request(with_field(number)).expect_err("it is not known");
            assert_eq!(refused.code(), Code::Unimplemented);
            assert_eq!(refused.reason(), "NOT_IMPLEMENTED");
            assert!(refused.to_string().contains(&format!("field {number} ")));
        }
    }

    #[test]
    fn malformed_bytes_are_rejected() {
        for bytes in [
            &b"\x0a\x05ab"[..],
            b"\xff",
            b"\x00\x01",
            b"\x0f",
            b"\x28\x01",
        ] {
            let refused = decode_request(Bytes::from_static(bytes)).expect_err("it is malformed");
            assert_eq!(refused.code(), Code::InvalidArgument, "{bytes:?}");
        }
    }

    #[test]
    fn a_second_request_in_a_call_is_rejected() {
        let mut decoder = RequestDecoder::<pb::WatchRequest>::new("WatchRequest");
        let bytes = Bytes::from(request().encode_to_vec());
        decoder
            .decode_request(bytes.clone())
            .expect("it is well-formed");
        let refused = decoder
            .decode_request(bytes)
            .expect_err("it is one too many");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.to_string().contains("twice"), "{refused}");
    }
}
