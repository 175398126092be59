//! The codecs of the service: requests as prost reads them, less what it would pass over in silence;
//! `Watch`'s responses as bytes that are ready.

use std::marker::PhantomData;

use bytes::{Buf as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_prost::ProstEncoder;

use crate::{
    error::Error,
    pb,
    rpc::strict::{check, violation},
    wire::Frame,
};

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
    type Decoder = StrictDecoder<pb::WatchRequest>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder::new("WatchRequest")
    }
}

/// The codec of `GetServerInfo`.
#[derive(Debug, Clone, Copy, Default)]
pub struct InfoCodec;

impl Codec for InfoCodec {
    type Encode = pb::GetServerInfoResponse;
    type Decode = pb::GetServerInfoRequest;
    type Encoder = ProstEncoder<pb::GetServerInfoResponse>;
    type Decoder = StrictDecoder<pb::GetServerInfoRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder::new("GetServerInfoRequest")
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

/// Reads the one request of a call whole, or refuses it.
#[derive(Debug)]
pub struct StrictDecoder<T> {
    message: &'static str,
    has_read: bool,
    reads: PhantomData<fn() -> T>,
}

impl<T> StrictDecoder<T> {
    fn new(message: &'static str) -> Self {
        Self {
            message,
            has_read: false,
            reads: PhantomData,
        }
    }
}

impl<T: Message + Default> StrictDecoder<T> {
    fn read(&mut self, bytes: Bytes) -> Result<T, Error> {
        let refused = |problem: String| violation(self.message.to_owned(), problem);
        if self.has_read {
            return Err(refused("came twice; a call has one".to_owned()));
        }
        check(self.message, &bytes)?;
        let read = T::decode(bytes).map_err(|error| refused(format!("malformed: {error}")))?;
        self.has_read = true;
        Ok(read)
    }
}

impl<T: Message + Default> Decoder for StrictDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let bytes = bytes.copy_to_bytes(bytes.remaining());
        let request = self.read(bytes).map_err(|error| error.into_status(""))?;
        Ok(Some(request))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn read(bytes: Bytes) -> Result<pb::WatchRequest, Error> {
        StrictDecoder::new("WatchRequest").read(bytes)
    }

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
    fn a_field_of_a_later_version_is_refused_with_its_number() {
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
    fn a_call_has_one_request() {
        let mut decoder = StrictDecoder::<pb::WatchRequest>::new("WatchRequest");
        let bytes = Bytes::from(request().encode_to_vec());
        decoder.read(bytes.clone()).expect("it is well-formed");
        let refused = decoder.read(bytes).expect_err("it is one too many");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.to_string().contains("twice"), "{refused}");
    }
}
