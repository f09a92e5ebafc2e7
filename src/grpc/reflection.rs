//! Server reflection: an upstream's descriptors, from itself.
//!
//! `grpc.reflection.v1` is asked first, then `v1alpha`, which has the same messages. Servers send a file alone or with all
//! that it imports: what is missing is asked for by name.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use futures_util::stream;
use prost::Message;
use prost_reflect::DescriptorPool;
use prost_reflect::prost_types::FileDescriptorProto;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ErrorResponse, ServerReflectionRequest, ServerReflectionResponse};

use super::descriptors::{DescriptorError, SET_BYTES_MAX, Schema};

const V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const V1_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
/// Names of gRPC's own services begin with one of these; they are not served.
const OWN_SERVICES: &str = "grpc.";
/// Services that are asked for.
const SERVICES_MAX: usize = 10_000;
/// How often missing files are asked for.
const ROUNDS_MAX: usize = 64;

/// Why an upstream has not described itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReflectionError {
    #[error("it does not answer reflection ({}: {}); switch reflection on there, or set `descriptor_set`", .0.code(), .0.message())]
    Status(Status),
    #[error("its reflection answers with something else than was asked for")]
    Unexpected,
    #[error("its reflection lacks the file `{0}`")]
    Missing(String),
    #[error(transparent)]
    Descriptors(#[from] DescriptorError),
}

impl From<Status> for ReflectionError {
    fn from(status: Status) -> Self {
        ReflectionError::Status(status)
    }
}

/// Asks the server on `channel` for all of its services.
pub(super) async fn schema(channel: Channel) -> Result<Schema, ReflectionError> {
    let v1 = Server { channel: channel.clone(), path: V1 };
    match v1.schema().await {
        Err(ReflectionError::Status(status)) if status.code() == Code::Unimplemented => {
            Server { channel, path: V1_ALPHA }.schema().await
        }
        result => result,
    }
}

struct Server {
    channel: Channel,
    path: &'static str,
}

impl Server {
    async fn schema(&self) -> Result<Schema, ReflectionError> {
        let listed = self.ask(vec![MessageRequest::ListServices(String::new())]).await?;
        let mut names = Vec::new();
        for answer in listed {
            match answer {
                MessageResponse::ListServicesResponse(list) => {
                    names.extend(list.service.into_iter().map(|service| service.name));
                }
                MessageResponse::ErrorResponse(error) => return Err(status_of(error).into()),
                _ => return Err(ReflectionError::Unexpected),
            }
        }
        names.retain(|name| !name.starts_with(OWN_SERVICES));
        names.truncate(SERVICES_MAX);
        let mut files = Files::default();
        let by_symbol = names.into_iter().map(MessageRequest::FileContainingSymbol).collect();
        files.add(self.ask(by_symbol).await?)?;
        // Some servers list services that they do not describe. The others are served.
        match files.refusals.first() {
            Some(refusal) if files.by_name.is_empty() => return Err(refusal.clone().into()),
            Some(refusal) => {
                let (services, reason) = (files.refusals.len(), refusal.message());
                tracing::warn!(
                    services,
                    reason,
                    "services that the upstream lists and does not describe are not served"
                );
            }
            None => {}
        }
        for _ in 0..ROUNDS_MAX {
            let missing = files.missing();
            let Some(first) = missing.first().cloned() else { return Ok(Schema::of_files(&files.into_all())?) };
            let before = files.by_name.len();
            let by_name = missing.into_iter().map(MessageRequest::FileByFilename).collect();
            files.add(self.ask(by_name).await?)?;
            if files.by_name.len() == before {
                return Err(ReflectionError::Missing(first));
            }
        }
        Err(ReflectionError::Unexpected)
    }

    /// Asks several things at once.
    async fn ask(&self, questions: Vec<MessageRequest>) -> Result<Vec<MessageResponse>, ReflectionError> {
        let count = questions.len();
        let request = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(SET_BYTES_MAX);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let requests = Request::new(stream::iter(questions.into_iter().map(request)));
        let path = PathAndQuery::from_static(self.path);
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let mut answers: Streaming<ServerReflectionResponse> =
            client.streaming(requests, path, codec).await?.into_inner();
        let mut taken = Vec::new();
        while let Some(answer) = answers.message().await? {
            match answer.message_response {
                Some(answer) => taken.push(answer),
                None => return Err(ReflectionError::Unexpected),
            }
            if taken.len() > count {
                return Err(ReflectionError::Unexpected);
            }
        }
        Ok(taken)
    }
}

fn status_of(error: ErrorResponse) -> Status {
    Status::new(Code::from_i32(error.error_code), error.error_message)
}

/// The files that were sent so far.
#[derive(Default)]
struct Files {
    by_name: BTreeMap<String, Bytes>,
    imports: BTreeSet<String>,
    bytes: usize,
    /// What was sent instead of a file.
    refusals: Vec<Status>,
}

impl Files {
    fn add(&mut self, answers: Vec<MessageResponse>) -> Result<(), ReflectionError> {
        for answer in answers {
            let files = match answer {
                MessageResponse::FileDescriptorResponse(files) => files,
                MessageResponse::ErrorResponse(error) => {
                    self.refusals.push(status_of(error));
                    continue;
                }
                _ => return Err(ReflectionError::Unexpected),
            };
            for file in files.file_descriptor_proto {
                let described = FileDescriptorProto::decode(file.as_slice());
                let described = described.map_err(|_| ReflectionError::Unexpected)?;
                self.imports.extend(described.dependency.iter().cloned());
                self.bytes = self.bytes.saturating_add(file.len());
                if self.bytes > SET_BYTES_MAX {
                    return Err(DescriptorError::TooLarge.into());
                }
                self.by_name.insert(described.name().to_owned(), file.into());
            }
        }
        Ok(())
    }

    /// What was imported and not sent, but for what everybody has.
    fn missing(&self) -> Vec<String> {
        let known = DescriptorPool::global();
        let is_missing = |name: &&String| !self.by_name.contains_key(*name) && known.get_file_by_name(name).is_none();
        self.imports.iter().filter(is_missing).cloned().collect()
    }

    fn into_all(self) -> Vec<Bytes> {
        self.by_name.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use futures_util::stream::BoxStream;
    use prost_reflect::prost_types::FileDescriptorSet;
    use tokio::net::TcpListener;
    use tonic::Response;
    use tonic::transport::server::TcpIncoming;
    use tonic_reflection::pb::v1::server_reflection_server::{ServerReflection, ServerReflectionServer};
    use tonic_reflection::pb::v1::{FileDescriptorResponse, ListServiceResponse, ServiceResponse};

    use super::super::fuzzing::encoded;
    use super::*;

    /// A server that describes a part of what it lists.
    struct Listing {
        listed: &'static [&'static str],
        described: &'static str,
    }

    impl Listing {
        fn answer(&self, question: Option<MessageRequest>) -> MessageResponse {
            match question {
                Some(MessageRequest::ListServices(_)) => {
                    let service = self.listed.iter().map(|name| ServiceResponse { name: (*name).to_owned() });
                    MessageResponse::ListServicesResponse(ListServiceResponse { service: service.collect() })
                }
                Some(MessageRequest::FileContainingSymbol(name)) if name == self.described => {
                    let text = "syntax = \"proto3\"; package test; message M {} service S { rpc Get(M) returns (M); }";
                    let set = FileDescriptorSet::decode(encoded(text).as_slice()).unwrap();
                    let file_descriptor_proto = set.file.iter().map(Message::encode_to_vec).collect();
                    MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto })
                }
                _ => {
                    let error_message = "Symbol not found.".to_owned();
                    MessageResponse::ErrorResponse(ErrorResponse { error_code: 5, error_message })
                }
            }
        }
    }

    #[tonic::async_trait]
    impl ServerReflection for Listing {
        type ServerReflectionInfoStream = BoxStream<'static, Result<ServerReflectionResponse, Status>>;

        async fn server_reflection_info(
            &self,
            request: Request<Streaming<ServerReflectionRequest>>,
        ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
            let mut questions = request.into_inner();
            let mut answers = Vec::new();
            while let Some(question) = questions.message().await? {
                let message_response = Some(self.answer(question.message_request));
                answers.push(Ok(ServerReflectionResponse { message_response, ..Default::default() }));
            }
            Ok(Response::new(stream::iter(answers).boxed()))
        }
    }

    async fn described(listing: Listing) -> Result<Schema, ReflectionError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = tokio::task::JoinSet::new();
        let server = ServerReflectionServer::new(listing);
        serving.spawn(async move {
            tonic::transport::Server::builder().serve_with_incoming(server, TcpIncoming::from(listener)).await
        });
        schema(Channel::from_shared(address).unwrap().connect_lazy()).await
    }

    #[tokio::test]
    async fn a_service_that_is_listed_and_not_described_costs_no_other() {
        let known = Listing { listed: &["test.Mistyped", "test.S"], described: "test.S" };
        assert!(described(known).await.unwrap().method("test.S/Get").is_some());
        let nothing = Listing { listed: &["test.Mistyped"], described: "test.S" };
        assert!(described(nothing).await.unwrap_err().to_string().contains("Symbol not found."));
    }
}
