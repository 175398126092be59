//! The response body of a watch: its messages with gRPC's prefix, and its status as trailers.
//!
//! tonic's own encoder compresses each message of each stream, or none.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::Stream;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame as BodyFrame};
use tonic::Status;

use crate::wire::{Frame, PREFIX_BYTES};

/// The size at which gathered messages are handed over to HTTP/2, in bytes.
const FLUSH_BYTES: usize = 64 << 10;

/// The size from which gathered messages are handed over in pieces of [`FLUSH_BYTES`], in bytes. hyper and h2
/// hold what they were handed over as a whole until the client has read it, beside the messages gathered next.
const CUT_BYTES: usize = 2 * FLUSH_BYTES;

/// The size from which a compressed message is handed over as it is, in bytes. A smaller one is copied, since
/// a frame of HTTP/2 for each would cost more.
const SHARE_BYTES: usize = 8 << 10;

/// A body that gathers the messages of a stream as long as some are ready.
#[derive(Debug)]
pub(super) struct FrameBody<S> {
    messages: S,
    /// Messages to be handed over next. Empty, and without memory, while the stream is idle.
    gathered: BytesMut,
    /// `true` while `gathered` is handed over in pieces.
    is_cut: bool,
    /// A shared message that follows them.
    shared: Option<Bytes>,
    /// The status that follows all messages.
    end: Option<Status>,
    is_done: bool,
}

impl<S> FrameBody<S> {
    pub(super) fn new(messages: S) -> Self {
        Self {
            messages,
            gathered: BytesMut::new(),
            is_cut: false,
            shared: None,
            end: None,
            is_done: false,
        }
    }

    /// Returns what is handed over next of what is there.
    fn take(&mut self) -> Option<BodyFrame<Bytes>> {
        if !self.gathered.is_empty() {
            return Some(BodyFrame::data(self.take_gathered()));
        }
        if let Some(shared) = self.shared.take() {
            return Some(BodyFrame::data(shared));
        }
        let status = self.end.take()?;
        self.is_done = true;
        let mut trailers = HeaderMap::new();
        if let Err(error) = status.add_header(&mut trailers) {
            // The text of Weir's statuses is escaped, so this is a defect. The code alone is always valid.
            tracing::error!(%error, "a status can't be sent");
            let _ = Status::new(status.code(), "").add_header(&mut trailers);
        }
        Some(BodyFrame::trailers(trailers))
    }

    /// Returns all gathered messages, or the next piece of many bytes.
    fn take_gathered(&mut self) -> Bytes {
        self.is_cut |= self.gathered.len() >= CUT_BYTES;
        if !self.is_cut {
            return mem::take(&mut self.gathered).freeze();
        }
        // Copied, because a slice would keep the memory of all until the client has read it.
        let length = self.gathered.len().min(FLUSH_BYTES);
        let piece = Bytes::copy_from_slice(&self.gathered[..length]);
        self.gathered.advance(length);
        if self.gathered.is_empty() {
            self.gathered = BytesMut::new();
            self.is_cut = false;
        }
        piece
    }

    fn gather(&mut self, frame: &Frame) {
        match frame.as_compressed() {
            Some(message) if message.len() >= SHARE_BYTES => self.shared = Some(message.clone()),
            Some(message) => self.gathered.extend_from_slice(message),
            None => {
                let length = frame.encoded_len();
                self.gathered.reserve(PREFIX_BYTES + length);
                self.gathered.put_u8(0);
                // A message has at most 64 MiB, and its token.
                self.gathered.put_u32(length as u32);
                frame.encode(&mut self.gathered);
            }
        }
    }
}

impl<S> HttpBody for FrameBody<S>
where
    S: Stream<Item = Result<Frame, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Status>>> {
        let body = self.get_mut();
        while body.gathered.len() < FLUSH_BYTES
            && !body.is_cut
            && body.shared.is_none()
            && body.end.is_none()
        {
            if body.is_done {
                return Poll::Ready(None);
            }
            match Pin::new(&mut body.messages).poll_next(context) {
                Poll::Ready(Some(Ok(frame))) => body.gather(&frame),
                Poll::Ready(Some(Err(status))) => body.end = Some(status),
                Poll::Ready(None) => body.end = Some(Status::new(tonic::Code::Ok, "")),
                Poll::Pending if body.gathered.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(body.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.is_done
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use http_body_util::BodyExt as _;
    use prost::Message as _;

    use super::*;
    use crate::pb::{self, watch_response::Kind};

    fn small(text: &str) -> Frame {
        let kind = Kind::StateChange(pb::StateChange {
            state: 0,
            reason: text.to_owned(),
        });
        Frame::message(Bytes::from_static(b"token"), kind)
    }

    fn compressed(bytes: usize) -> (Frame, Bytes) {
        let message = Bytes::from(vec![7; bytes]);
        let frame = Frame::compressed(Bytes::from_static(b"token"), message.clone());
        (frame, message)
    }

    /// Messages of every kind, in order, and in as few pieces as may be.
    #[tokio::test]
    async fn ready_messages_are_gathered_and_large_compressed_ones_are_shared() {
        let (large, shared) = compressed(SHARE_BYTES);
        let (little, copied) = compressed(100);
        let messages = stream::iter([
            Ok(small("a")),
            Ok(small("b")),
            Ok(large),
            Ok(little),
            Ok(small("c")),
        ]);
        let mut body = FrameBody::new(messages);
        let mut next = async || body.frame().await.map(|frame| frame.unwrap());
        let first = next().await.unwrap().into_data().unwrap();
        let a = small("a");
        assert_eq!(first[0], 0);
        assert_eq!(first[1..5], (a.encoded_len() as u32).to_be_bytes());
        let end = 5 + a.encoded_len();
        let message = pb::WatchResponse::decode(&first[5..end]).unwrap();
        assert_eq!(message.resume_token, "token");
        assert_eq!(first.len(), 2 * end);
        let second = next().await.unwrap().into_data().unwrap();
        assert_eq!(second.as_ptr(), shared.as_ptr(), "it was copied");
        let third = next().await.unwrap().into_data().unwrap();
        assert_eq!(third[..100], copied);
        assert_eq!(third.len(), 100 + end);
        let trailers = next().await.unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(next().await.is_none());
        assert!(body.is_end_stream());
    }

    /// An unread stream holds one large message, and not a second one in hyper and h2.
    #[tokio::test]
    async fn a_large_message_is_handed_over_in_pieces_that_do_not_hold_it() {
        let large = small(&"x".repeat(1 << 20));
        let length = PREFIX_BYTES + large.encoded_len();
        let polled = std::cell::Cell::new(0);
        let frames = [large, small("a"), small("b")].map(Ok);
        let messages = stream::iter(frames).inspect(|_| polled.set(polled.get() + 1));
        let mut body = FrameBody::new(messages);
        let mut received = Vec::new();
        while received.len() < length {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() < CUT_BYTES, "{}", piece.len());
            assert!(piece.is_unique(), "the piece holds the whole message");
            received.extend_from_slice(&piece);
            assert_eq!(polled.get(), 1, "a second message beside the first");
        }
        assert_eq!(received.len(), length);
        assert_eq!(body.gathered.capacity(), 0);
        let message = pb::WatchResponse::decode(&received[PREFIX_BYTES..]).unwrap();
        assert_eq!(message.resume_token, "token");
        let rest = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(rest.len(), 2 * (PREFIX_BYTES + small("a").encoded_len()));
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
    }

    /// Copies would cost throughput.
    #[tokio::test]
    async fn small_messages_are_gathered_up_to_the_limit_and_not_copied() {
        let messages = stream::iter((0..1_000).map(|_| Ok(small(&"x".repeat(1_000)))));
        let mut body = FrameBody::new(messages);
        let one = PREFIX_BYTES + small(&"x".repeat(1_000)).encoded_len();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), FLUSH_BYTES.div_ceil(one) * one);
        assert!(body.gathered.is_empty());
    }

    #[tokio::test]
    async fn what_is_ready_is_sent_before_a_wait_and_before_the_status() {
        let failed = Status::unavailable("later");
        let waiting = stream::iter([Ok(small("a"))]).chain(stream::pending());
        let mut body = FrameBody::new(waiting);
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert_eq!(body.gathered.capacity(), 0, "an idle stream holds memory");
        let mut body = FrameBody::new(stream::iter([Ok(small("a")), Err(failed)]));
        assert!(body.frame().await.unwrap().unwrap().is_data());
        let trailers = body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(trailers["grpc-status"], "14");
        assert!(body.frame().await.is_none());
    }
}
