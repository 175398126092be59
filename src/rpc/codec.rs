//! The codec of `Watch`: requests as prost reads them, responses as bytes that are ready.

use bytes::Buf as _;
use prost::Message as _;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{pb, wire::Frame};

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
        let request = pb::WatchRequest::decode(bytes)
            .map_err(|error| Status::invalid_argument(format!("not a WatchRequest: {error}")))?;
        Ok(Some(request))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
