//! What a client is asked beside its event stream: the network, block headers, and what is finalized.
//!
//! An answer is looked at only as far as it is needed, and is read up to a limit.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::endpoint::Endpoint;
use crate::sse_client::stream::body_up_to;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The slots of an epoch where the client does not tell: the mainnet's.
const SLOTS_PER_EPOCH: u64 = 32;

/// A client's REST API.
pub(super) struct RestApi<'a> {
    client: &'a reqwest::Client,
    endpoint: &'a Endpoint,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestError {
    #[error("no answer to {path}")]
    Request {
        path: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{path} was answered with HTTP status {status}")]
    Status { path: String, status: StatusCode },
    #[error("the answer to {path} is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong { path: String },
    #[error("the answer to {path} cannot be read")]
    Unreadable {
        path: String,
        #[source]
        source: serde_json::Error,
    },
}

/// What is the same for all of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// Empty where the client does not tell.
    pub(super) name: String,
    pub(super) slots_per_epoch: u64,
}

impl Network {
    /// Where the client does not tell.
    pub(super) fn unknown() -> Network {
        Network { name: String::new(), slots_per_epoch: SLOTS_PER_EPOCH }
    }
}

/// The header of a block on the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) slot: u64,
    pub(super) root: String,
    pub(super) parent_root: String,
    pub(super) state_root: String,
    pub(super) execution_optimistic: bool,
}

/// What is finalized.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Checkpoint {
    #[serde(deserialize_with = "number")]
    pub(super) epoch: u64,
    pub(super) root: String,
}

impl<'a> RestApi<'a> {
    pub(super) fn new(client: &'a reqwest::Client, endpoint: &'a Endpoint) -> Self {
        RestApi { client, endpoint }
    }

    /// The client's network.
    pub(super) async fn network(&self) -> Result<Network, RestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "UPPERCASE")]
        struct Spec {
            #[serde(default)]
            config_name: String,
            #[serde(default)]
            slots_per_epoch: Option<String>,
        }
        let Answer { data: Spec { config_name, slots_per_epoch }, .. } = self.ask("/eth/v1/config/spec").await?;
        let slots_per_epoch = slots_per_epoch.and_then(|slots| slots.parse().ok()).filter(|slots| *slots > 0);
        Ok(Network { name: config_name, slots_per_epoch: slots_per_epoch.unwrap_or(SLOTS_PER_EPOCH) })
    }

    /// The header of the head of the chain.
    pub(super) async fn head(&self) -> Result<Option<Header>, RestError> {
        self.header_at("/eth/v1/beacon/headers").await
    }

    /// The header of a block; `None` where the client does not know it.
    pub(super) async fn header(&self, root: &str) -> Result<Option<Header>, RestError> {
        self.header_at(&format!("/eth/v1/beacon/headers/{root}")).await
    }

    async fn header_at(&self, path: &str) -> Result<Option<Header>, RestError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(WithRoot),
            Many(Vec<WithRoot>),
        }
        #[derive(Deserialize)]
        struct WithRoot {
            root: String,
            #[serde(default = "yes")]
            canonical: bool,
            header: Signed,
        }
        #[derive(Deserialize)]
        struct Signed {
            message: Message,
        }
        #[derive(Deserialize)]
        struct Message {
            #[serde(deserialize_with = "number")]
            slot: u64,
            parent_root: String,
            state_root: String,
        }
        let answer: Answer<OneOrMany> = match self.ask(path).await {
            Err(RestError::Status { status: StatusCode::NOT_FOUND, .. }) => return Ok(None),
            answer => answer?,
        };
        let header = match answer.data {
            OneOrMany::One(header) => Some(header),
            OneOrMany::Many(headers) => {
                headers.into_iter().filter(|header| header.canonical).max_by_key(|header| header.header.message.slot)
            }
        };
        let header = header.map(|WithRoot { root, header: Signed { message }, .. }| Header {
            slot: message.slot,
            root,
            parent_root: message.parent_root,
            state_root: message.state_root,
            execution_optimistic: answer.execution_optimistic,
        });
        Ok(header
            .filter(|header| [&header.root, &header.parent_root, &header.state_root].iter().all(|root| is_root(root))))
    }

    /// The newest finalized checkpoint, if there is one, and whether it is not verified yet.
    pub(super) async fn finalized(&self) -> Result<Option<(Checkpoint, bool)>, RestError> {
        #[derive(Deserialize)]
        struct Checkpoints {
            finalized: Checkpoint,
        }
        let path = "/eth/v1/beacon/states/head/finality_checkpoints";
        let Answer { data: Checkpoints { finalized }, execution_optimistic } = self.ask(path).await?;
        let is_one = finalized.epoch > 0 && is_root(&finalized.root);
        Ok(is_one.then_some((finalized, execution_optimistic)))
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, RestError> {
        let no_answer =
            |source: reqwest::Error| RestError::Request { path: path.to_owned(), source: source.without_url() };
        let request = self.client.get(self.endpoint.at(path)).timeout(TIMEOUT);
        let response = request.send().await.map_err(no_answer)?;
        if response.status() != StatusCode::OK {
            return Err(RestError::Status { path: path.to_owned(), status: response.status() });
        }
        let body = body_up_to(response, ANSWER_BYTES_MAX).await.map_err(no_answer)?;
        let body = body.ok_or_else(|| RestError::TooLong { path: path.to_owned() })?;
        serde_json::from_slice(&body).map_err(|source| RestError::Unreadable { path: path.to_owned(), source })
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(default)]
    execution_optimistic: bool,
    data: T,
}

/// What a client says is put into paths and payloads.
fn is_root(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn yes() -> bool {
    true
}

/// Numbers are decimal strings in the beacon API.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
