//! The check of a node's `/status` before every connection: is it new enough, and which network is it on.
//!
//! Owns the compatibility rules. Nothing flows on from a node that has not passed them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::engine::source::{ApiVersion, ApiVersionError};
use crate::sse_client::stream::body_up_to;

/// The oldest node that is spoken to.
pub const BUILD_VERSION_MIN: ApiVersion = ApiVersion { major: 2, minor: 0, patch: 0 };

/// How long the whole answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes. A node lists its peers there, so the limit is generous.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The longest name of a network that a log can hold, in bytes.
const CHAIN_NAME_BYTES_MAX: usize = 255;

/// What a node says of itself, as far as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node's version, without what follows its first `-`.
    pub build_version: ApiVersion,
    /// The name of its network.
    pub chain_name: String,
}

/// Why a node did not pass the check.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// The node did not answer. Try again.
    #[error("no answer from {url}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The answer is longer than any status is. Try again.
    #[error("the answer from {url} is longer than {BODY_BYTES_MAX} bytes; is it a node's REST port?")]
    Oversized {
        /// What was asked.
        url: String,
    },
    /// The answer is no JSON object. Try again.
    #[error("the answer from {url} is not a JSON object; is it a node's REST port?")]
    NotJson {
        /// What was asked.
        url: String,
    },
    /// There is no version, or it is no text. Try again.
    #[error("the node's status has no `build_version`")]
    BuildVersionMissing,
    /// The version has an unknown form. Try again.
    #[error("the node's `build_version` is `{build_version}`, not MAJOR.MINOR.PATCH; is it a Casper node?")]
    BuildVersionForm {
        /// What it is.
        build_version: String,
        /// What is wrong with it.
        source: ApiVersionError,
    },
    /// There is no network name, or it is no text. Try again.
    #[error("the node's status has no `chainspec_name`")]
    ChainNameMissing,
    /// The network name is longer than a log can hold. Try again.
    #[error("the node's `chainspec_name` has {bytes} bytes, at most {CHAIN_NAME_BYTES_MAX} fit; is it a Casper node?")]
    ChainNameForm {
        /// How long it is.
        bytes: usize,
    },
    /// The node is too old. A retry fails until it is upgraded.
    #[error("Node version expected to be >= {BUILD_VERSION_MIN}. It is {build_version}; upgrade the node")]
    Incompatible {
        /// The node's version.
        build_version: ApiVersion,
    },
    /// The node is on another network than configured. A retry cannot succeed.
    #[error(
        "Network name {configured} does't match name {chain_name} configured for node connection; \
         set `network_name` to {chain_name} or connect to a node of {configured}"
    )]
    WrongNetwork {
        /// The configured `network_name`.
        configured: String,
        /// The node's network.
        chain_name: String,
    },
    /// The node is on another network than the events in the log. A retry cannot succeed.
    #[error(
        "the log holds events of network {log} and the node is on network {chain_name}; connect to a node of {log}, or give \
         another storage folder, or allow the change with `allow_network_change = true` in `[storage.log]`"
    )]
    OtherNetwork {
        /// The log's network.
        log: String,
        /// The node's network.
        chain_name: String,
    },
}

/// Checks that a node is on the network of the log.
///
/// # Errors
/// [`StatusError::OtherNetwork`].
pub(super) fn is_same_network(log: &str, chain_name: &str) -> Result<(), StatusError> {
    if log == chain_name {
        return Ok(());
    }
    Err(StatusError::OtherNetwork { log: log.to_owned(), chain_name: chain_name.to_owned() })
}

/// Asks `address` (`HOST:REST_PORT`) for its status and checks it.
///
/// # Errors
/// [`StatusError`], whose variants say whether trying again is of use.
pub async fn check(
    client: &reqwest::Client,
    address: &str,
    network_name: Option<&str>,
) -> Result<NodeInfo, StatusError> {
    let url = format!("http://{address}/status");
    let body = fetch(client, &url).await?;
    let status: Status = serde_json::from_slice(&body).map_err(|_| StatusError::NotJson { url })?;
    status.compatible(network_name)
}

/// The body of `url`, of any HTTP status.
async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, StatusError> {
    let unreachable = |source| StatusError::Unreachable { url: url.to_owned(), source };
    let response = client.get(url).timeout(TIMEOUT).send().await.map_err(unreachable)?;
    let body = body_up_to(response, BODY_BYTES_MAX).await.map_err(unreachable)?;
    body.ok_or_else(|| StatusError::Oversized { url: url.to_owned() })
}

/// The used members of the answer, of any type, so that each can be reported for itself.
#[derive(Deserialize)]
struct Status {
    build_version: Option<Value>,
    chainspec_name: Option<Value>,
}

impl Status {
    fn compatible(self, network_name: Option<&str>) -> Result<NodeInfo, StatusError> {
        let Some(Value::String(build_version)) = self.build_version else {
            return Err(StatusError::BuildVersionMissing);
        };
        let Some(Value::String(chain_name)) = self.chainspec_name else {
            return Err(StatusError::ChainNameMissing);
        };
        if chain_name.len() > CHAIN_NAME_BYTES_MAX {
            return Err(StatusError::ChainNameForm { bytes: chain_name.len() });
        }
        let (number, _) = build_version.split_once('-').unwrap_or((&build_version, ""));
        // Some builds are named after their tag.
        let number = number.strip_prefix(['v', 'V']).unwrap_or(number);
        let build_version = match number.parse() {
            Ok(version) => version,
            Err(source) => return Err(StatusError::BuildVersionForm { build_version, source }),
        };
        if let Some(configured) = network_name.filter(|configured| *configured != chain_name) {
            return Err(StatusError::WrongNetwork { configured: configured.to_owned(), chain_name });
        }
        if build_version < BUILD_VERSION_MIN {
            return Err(StatusError::Incompatible { build_version });
        }
        Ok(NodeInfo { build_version, chain_name })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn check(body: &str, network_name: Option<&str>) -> Result<NodeInfo, StatusError> {
        serde_json::from_str::<Status>(body).unwrap().compatible(network_name)
    }

    #[test]
    fn a_new_enough_node_passes_with_whatever_follows_its_version() {
        for build_version in ["2.0.0", "2.0.3-", "2.1.0-abc123-casper-mainnet", "10.0.0-x", "v2.0.3", "V2.0.3-a"] {
            let body = format!(r#"{{"build_version":"{build_version}","chainspec_name":"casper","peers":[]}}"#);
            assert_eq!(check(&body, Some("casper")).unwrap().chain_name, "casper");
        }
    }

    #[test]
    fn an_old_node_is_incompatible() {
        let result = check(r#"{"build_version":"1.5.8-abc","chainspec_name":"casper"}"#, None);
        assert!(matches!(result, Err(StatusError::Incompatible { .. })));
        assert!(result.unwrap_err().to_string().starts_with("Node version expected to be >= 2.0.0."));
    }

    #[test]
    fn a_node_of_another_network_is_recognised() {
        let result = check(r#"{"build_version":"2.0.0","chainspec_name":"casper-test"}"#, Some("casper"));
        let text = "Network name casper does't match name casper-test configured for node connection";
        assert!(result.unwrap_err().to_string().starts_with(text));
    }

    #[test]
    fn each_missing_member_is_named() {
        let missing_version = check(r#"{"chainspec_name":"casper"}"#, None);
        assert!(matches!(missing_version, Err(StatusError::BuildVersionMissing)));
        let missing_name = check(r#"{"build_version":"2.0.0","chainspec_name":7}"#, None);
        assert!(matches!(missing_name, Err(StatusError::ChainNameMissing)));
        for odd in ["two", "vv2.0.3", "v", "2.0", ""] {
            let odd_version = check(&format!(r#"{{"build_version":"{odd}","chainspec_name":"casper"}}"#), None);
            assert!(matches!(odd_version, Err(StatusError::BuildVersionForm { .. })), "{odd}");
        }
        let long_name = |bytes: usize| {
            check(&format!(r#"{{"build_version":"2.0.0","chainspec_name":"{}"}}"#, "c".repeat(bytes)), None)
        };
        assert!(matches!(long_name(256), Err(StatusError::ChainNameForm { bytes: 256 })));
        assert_eq!(long_name(255).unwrap().chain_name.len(), 255);
    }

    /// Answers one request with `chunk` for as long as it is taken.
    async fn answer_endlessly(listener: TcpListener, chunk: &[u8]) {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_u8().await.unwrap();
        let mut taken = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while taken.is_ok() {
            taken = socket.write_all(chunk).await;
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = crate::sse_client::stream::http_client(Duration::from_secs(5)).unwrap();
        let chunk = vec![b' '; 1024 * 1024];
        let (_, result) =
            tokio::join!(answer_endlessly(listener, &chunk), async { super::check(&client, &address, None).await });
        assert!(matches!(result, Err(StatusError::Oversized { .. })), "{result:?}");
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_unreachable_and_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error =
            super::check(&crate::sse_client::stream::http_client(Duration::from_secs(5)).unwrap(), &address, None)
                .await
                .unwrap_err();
        assert_eq!(error.to_string(), format!("no answer from http://{address}/status"));
    }
}
