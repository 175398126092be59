//! The wait for MongoDB after the start.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    admin::Readiness,
    rpc::HealthReporter,
    source::{Failure, SourceError, mongo::MongoSource},
};

/// The reason for not being ready until MongoDB has answered.
pub(super) const NO_ANSWER: &str = "MongoDB has not answered yet";

/// The reason for not being ready at the end.
pub(super) const SHUTTING_DOWN: &str = "the server is shutting down";

/// The reason for not being ready while no server may be read from. The log names the tags.
const READ_PREFERENCE_UNMET: &str = "no server matches readPreference of --mongodb-uri";

/// The pause between attempts to reach MongoDB for the first time.
const INTERVAL: Duration = Duration::from_millis(500);

/// Calls MongoDB until it answers once and can be used, then marks the server as ready.
pub(super) async fn wait(
    source: MongoSource,
    health: HealthReporter,
    readiness: Arc<Readiness>,
    drain: CancellationToken,
) {
    let contact = async {
        // Its failures are logged where they happen.
        source
            .resolved(|reason| readiness.set_not_ready(reason))
            .await;
        let mut last_logged = None;
        loop {
            match source.check().await {
                Ok(facts) => return facts,
                Err(error) => {
                    readiness.set_not_ready(&reason(&error));
                    let message = error.to_string();
                    if last_logged.as_ref() != Some(&message) {
                        log(&error);
                        last_logged = Some(message);
                    }
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    if let Some(facts) = drain.run_until_cancelled(contact).await {
        tracing::info!(
            version = facts.version,
            set = facts.set_name,
            "mongodb answers"
        );
        readiness.set_ready();
        health.set_serving(true);
    }
    // A shutdown may have begun meanwhile; its status must win.
    if drain.is_cancelled() {
        readiness.set_not_ready(SHUTTING_DOWN);
        health.set_serving(false);
    }
}

/// Returns the reason in words that anyone may read. The driver's own words name hosts.
fn reason(error: &SourceError) -> String {
    if error.is_read_preference_unmet() {
        return READ_PREFERENCE_UNMET.to_owned();
    }
    if error.is_about_the_uri() {
        return error.message.clone();
    }
    let reason = match error.failure {
        Failure::LoginFailed => "MongoDB refuses the login of Weir's user",
        Failure::AccessDenied => "MongoDB refuses a command of Weir's user",
        _ => NO_ANSWER,
    };
    reason.to_owned()
}

fn log(error: &SourceError) {
    if error.is_about_the_uri() {
        tracing::warn!(%error, "not ready; trying again");
    } else {
        tracing::warn!(code = error.code, %error, "mongodb does not answer yet; trying again");
    }
}
