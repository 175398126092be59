//! The ways in which the tutorial can fail.

use std::time::Duration;

use tonic::Status;

use super::expected_event::Mismatch;
use crate::cli::watch::advice::{AdviceContext, explain};

/// The reasons why the tutorial failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli::dev) enum TutorialError {
    #[error("MongoDB refused a step of the tutorial: {0}")]
    Database(#[from] mongodb::error::Error),
    #[error("{}", explain(.0, &AdviceContext::default()))]
    Weir(Box<Status>),
    #[error("timed out after {} s: {what}", limit.as_secs())]
    TimedOut { what: String, limit: Duration },
    #[error("{0}")]
    Unexpected(#[from] Mismatch),
}

impl From<Status> for TutorialError {
    fn from(status: Status) -> TutorialError {
        TutorialError::Weir(Box::new(status))
    }
}
