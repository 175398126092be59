//! The gRPC health protocol: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.
//!
//! tonic-health's own service fails a `Watch` of a service that it does not know, where the protocol has it
//! send SERVICE_UNKNOWN and go on.

use std::pin::Pin;

use futures::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};

use crate::error::Error;

/// The names that have a health: the server as a whole, which most probes ask for, and its service.
const SERVICES: [&str; 2] = ["", "weir.v1.WatchService"];

/// Changes the health that [`HealthApi`] reports.
#[derive(Debug, Clone)]
pub struct HealthReporter(watch::Sender<ServingStatus>);

/// The implementation of `grpc.health.v1.Health`.
#[derive(Debug)]
pub struct HealthApi {
    status: watch::Receiver<ServingStatus>,
    drain: CancellationToken,
}

impl HealthApi {
    /// Creates a service that reports NOT_SERVING until its reporter says otherwise. Once `drain` is
    /// cancelled, every stream receives the last status and ends.
    #[must_use]
    pub fn new(drain: CancellationToken) -> (HealthReporter, Self) {
        let (sender, status) = watch::channel(ServingStatus::NotServing);
        (HealthReporter(sender), Self { status, drain })
    }
}

impl HealthReporter {
    /// Sets whether the server serves, and tells every watch if that is new.
    pub fn set_serving(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.0.send_if_modified(|current| {
            let is_new = *current != status;
            *current = status;
            is_new
        });
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for HealthApi {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&&*service) {
            return Err(Error::ServiceUnknown(service).into_status(""));
        }
        Ok(Response::new(response(*self.status.borrow())))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = SERVICES.contains(&&*request.into_inner().service);
        let begin = (self.status.clone(), self.drain.clone(), true);
        let statuses = stream::unfold(begin, move |(mut status, drain, first)| async move {
            if !first {
                let changed = async {
                    if is_known {
                        // The reporter lives as long as the server.
                        status.changed().await.ok()
                    } else {
                        // No service comes to exist while the server runs.
                        std::future::pending().await
                    }
                };
                tokio::select! {
                    // The last status before a shutdown is sent, and then the end.
                    biased;
                    changed = changed => changed?,
                    () = drain.cancelled() => return None,
                }
            }
            let current = if is_known {
                *status.borrow_and_update()
            } else {
                ServingStatus::ServiceUnknown
            };
            Some((Ok(response(current)), (status, drain, false)))
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}
