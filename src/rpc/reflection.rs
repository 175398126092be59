//! The gRPC reflection protocol, versions v1 and v1alpha: old versions of grpcurl speak only the latter.
//!
//! tonic-reflection's own service ends the stream at the first symbol that it does not know, where the
//! protocol has an `error_response` for it and goes on.

mod index;

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};

pub use index::ReflectionIndex;

/// The implementation of both versions of `grpc.reflection.*.ServerReflection`.
#[derive(Debug, Clone)]
pub struct ReflectionApi(Arc<ReflectionIndex>);

impl ReflectionApi {
    /// Creates a service that describes these files.
    #[must_use]
    pub fn new(index: ReflectionIndex) -> Self {
        Self(Arc::new(index))
    }
}

/// The reason why a request has no answer.
struct NoAnswer {
    code: Code,
    message: String,
}

impl NoAnswer {
    fn not_found(what: &str, name: &str) -> Self {
        Self {
            code: Code::NotFound,
            message: format!("this server knows no {what} {name:?}"),
        }
    }
}

/// Implements a version of the protocol. The messages of both have the same fields, and types of their own.
macro_rules! serve {
    ($version:ident) => {
        mod $version {
            use tonic_reflection::pb::$version::{
                ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse,
                ListServiceResponse, ServerReflectionRequest, ServerReflectionResponse,
                ServiceResponse, server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
                server_reflection_server::ServerReflection,
            };

            use super::*;

            fn answer(
                index: &ReflectionIndex,
                asked: Option<MessageRequest>,
            ) -> Result<MessageResponse, NoAnswer> {
                let file = |found: Option<&bytes::Bytes>, what, name: &str| {
                    let bytes = found.ok_or_else(|| NoAnswer::not_found(what, name))?;
                    Ok(MessageResponse::FileDescriptorResponse(
                        FileDescriptorResponse {
                            file_descriptor_proto: vec![bytes.to_vec()],
                        },
                    ))
                };
                match asked {
                    Some(MessageRequest::FileByFilename(name)) => {
                        file(index.file(&name), "file", &name)
                    }
                    Some(MessageRequest::FileContainingSymbol(name)) => {
                        file(index.file_of_symbol(&name), "symbol", &name)
                    }
                    // None of the described files declares an extension.
                    Some(MessageRequest::FileContainingExtension(asked)) => {
                        Err(NoAnswer::not_found("extension of", &asked.containing_type))
                    }
                    Some(MessageRequest::AllExtensionNumbersOfType(name)) => {
                        if !index.has_message(&name) {
                            return Err(NoAnswer::not_found("message", &name));
                        }
                        Ok(MessageResponse::AllExtensionNumbersResponse(
                            ExtensionNumberResponse {
                                base_type_name: name,
                                extension_number: Vec::new(),
                            },
                        ))
                    }
                    Some(MessageRequest::ListServices(_)) => {
                        let service = index.services().map(|name| ServiceResponse {
                            name: name.to_owned(),
                        });
                        Ok(MessageResponse::ListServicesResponse(ListServiceResponse {
                            service: service.collect(),
                        }))
                    }
                    None => Err(NoAnswer {
                        code: Code::InvalidArgument,
                        message: "message_request is not set: set one of its fields".to_owned(),
                    }),
                }
            }

            #[tonic::async_trait]
            impl ServerReflection for ReflectionApi {
                type ServerReflectionInfoStream =
                    Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

                async fn server_reflection_info(
                    &self,
                    requests: Request<Streaming<ServerReflectionRequest>>,
                ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                    let index = Arc::clone(&self.0);
                    let answers = requests.into_inner().map(move |request| {
                        let request = request?;
                        let asked = request.message_request.clone();
                        let answer = answer(&index, asked).unwrap_or_else(|error| {
                            MessageResponse::ErrorResponse(ErrorResponse {
                                error_code: error.code.into(),
                                error_message: error.message,
                            })
                        });
                        Ok(ServerReflectionResponse {
                            valid_host: request.host.clone(),
                            original_request: Some(request),
                            message_response: Some(answer),
                        })
                    });
                    Ok(Response::new(Box::pin(answers)))
                }
            }
        }
    };
}

serve!(v1);
serve!(v1alpha);
