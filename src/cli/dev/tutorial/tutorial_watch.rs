//! The tutorial's watch: prints every message and returns the changes that the steps wait for.

use std::collections::VecDeque;
use std::io::Write as _;

use tonic::{Status, Streaming};

use super::expected_event::Mismatch;
use super::failure::TutorialError;
use crate::cli::watch::Message;
use crate::cli::watch::advice::reason;
use crate::cli::watch::message::ChunkJoiner;
use crate::cli::watch::print_pretty::PrettyPrinter;
use crate::cli::watch::printer::pretty_for_stdout;
use crate::pb;

/// An open watch, with received changes that have not been returned yet.
pub(super) struct TutorialWatch {
    stream: Streaming<pb::WatchResponse>,
    joiner: ChunkJoiner,
    printer: PrettyPrinter,
    changes: VecDeque<pb::ChangeEvent>,
}

impl TutorialWatch {
    pub fn new(stream: Streaming<pb::WatchResponse>) -> TutorialWatch {
        TutorialWatch {
            stream,
            joiner: ChunkJoiner::default(),
            printer: pretty_for_stdout(false),
            changes: VecDeque::new(),
        }
    }

    /// Reads the message Opened.
    pub async fn opened(&mut self) -> Result<(), Status> {
        match self.next().await? {
            Some(Message::Opened(_)) => Ok(()),
            _ => Err(Status::internal("the watch's first message is not Opened")),
        }
    }

    /// Returns the next change.
    pub async fn change(&mut self) -> Result<pb::ChangeEvent, TutorialError> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            match self.next().await? {
                Some(Message::Changes(changes)) => self.changes.extend(changes),
                Some(message) if has_no_change(&message) => {}
                Some(_) => return Err(Mismatch::new("an event", "another message").into()),
                None => return Err(Mismatch::new("an event", "the stream's end").into()),
            }
        }
    }

    /// Reads the message Invalidated for the drop, and then the status WATCH_INVALIDATED.
    pub async fn invalidated(&mut self) -> Result<(), TutorialError> {
        let mut got_invalidated = false;
        loop {
            match self.next().await {
                Ok(Some(Message::Invalidated(invalidated)))
                    if !got_invalidated && invalidated.cause() == pb::OperationType::Drop =>
                {
                    got_invalidated = true;
                }
                Ok(Some(message)) if has_no_change(&message) => {}
                Ok(Some(_)) => {
                    return Err(Mismatch::new("Invalidated by drop", "another message").into());
                }
                Ok(None) => {
                    return Err(Mismatch::new("ABORTED", "the stream's end without it").into());
                }
                Err(status) => return Ok(check_end(&status, got_invalidated)?),
            }
        }
    }

    /// Prints and returns the next message; `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<Message>, Status> {
        let Some(response) = self.stream.message().await? else {
            return Ok(None);
        };
        let (message, _) = self
            .joiner
            .accept(response)
            .map_err(|broken| Status::internal(broken.to_string()))?;
        let mut text = String::new();
        self.printer.print(&message, false, &mut text);
        // Not through anstream: the printer has already decided about colors.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(Some(message))
    }
}

fn has_no_change(message: &Message) -> bool {
    matches!(
        message,
        Message::Progress(_) | Message::StateChange(_) | Message::NoContent
    )
}

fn check_end(status: &Status, got_invalidated: bool) -> Result<(), Mismatch> {
    const REASON: &str = "WATCH_INVALIDATED";
    let found = reason(status).unwrap_or_else(|| "no reason".to_owned());
    if status.code() != tonic::Code::Aborted || found != REASON {
        let found = format!("{:?} ({found}): {}", status.code(), status.message());
        return Err(Mismatch::new("Aborted (WATCH_INVALIDATED)", found));
    }
    if !got_invalidated {
        return Err(Mismatch::new("Invalidated by drop", "the end without it"));
    }
    Ok(())
}
