//! A bridge with its servers in front of a simulated node, and what is sent to it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casper_binary_port::{BinaryResponse, Command, ErrorCode, InformationRequestTag, ResponseType};
use casper_types::Peers;
use casper_types::bytesrepr::ToBytes;
use serde_json::{Value, json};
use sidecar::casper::rpc::{Backoff, NodeLinkOptions, Role, Rpc, RpcOptions, ServerOptions, Watch};
use sidecar::engine::http::{ListenOptions, cors::Origins};
use sidecar_test_support::binary_port::{BinaryPort, Reply, default_answer, information_tag};
use tokio::task::JoinSet;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A call for the node's peers, and what it is answered where there are none.
pub(crate) const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"info_get_peers"}"#;
pub(crate) const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"api_version":"2.0.0","peers":[]}}"#;

/// The node's answer then.
pub(crate) fn no_peers() -> BinaryResponse {
    value(ResponseType::Peers, &[&Peers::from(BTreeMap::<String, String>::new())])
}

/// The running bridge.
pub(crate) struct Bridge {
    pub(crate) node: BinaryPort,
    pub(crate) main: SocketAddr,
    pub(crate) speculative: SocketAddr,
    pub(crate) watch: Watch,
    asked: Arc<Mutex<Vec<String>>>,
    client: reqwest::Client,
    _servers: JoinSet<()>,
}

pub(crate) fn options(node: SocketAddr) -> RpcOptions {
    let server = |role| ServerOptions {
        role,
        port: 0,
        listen: ListenOptions { origins: Origins::Off, ..ListenOptions::on(Ipv4Addr::LOCALHOST) },
        qps_limit: 1_000_000,
        max_body_bytes: 100_000,
        trust_client_ip_headers: false,
        batch_requests_max: 10,
    };
    RpcOptions {
        servers: vec![server(Role::Main), server(Role::Speculative)],
        link: NodeLinkOptions {
            address: node,
            network_name: None,
            message_bytes_max: 4 << 20,
            message_timeout: PATIENCE,
            access_timeout: PATIENCE,
            keepalive_interval: Duration::from_secs(1),
            backoff: Backoff {
                initial_delay: Duration::from_millis(10),
                max_delay: Duration::from_millis(50),
                coefficient: 2,
                max_attempts: 1_000_000,
            },
            request_limit: 256,
            request_buffer_size: 4096,
        },
        answer_cache_bytes: 0,
    }
}

impl Bridge {
    /// A bridge to a node that gives these answers, one after the other.
    pub(crate) fn answering(answers: impl IntoIterator<Item = BinaryResponse>) -> Bridge {
        Bridge::with(answers, |_| ())
    }

    /// The same, with other options.
    pub(crate) fn with(
        answers: impl IntoIterator<Item = BinaryResponse>,
        change: impl FnOnce(&mut RpcOptions),
    ) -> Bridge {
        let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
        Bridge::to_node(move |_| answers.lock().unwrap().pop_front(), change)
    }

    /// A bridge to a node that answers as `answer` says, keep-alives aside; with no answer left it is an error.
    pub(crate) fn to_node(
        answer: impl Fn(&Command) -> Option<BinaryResponse> + Send + Sync + 'static,
        change: impl FnOnce(&mut RpcOptions),
    ) -> Bridge {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let node = BinaryPort::start({
            let asked = Arc::clone(&asked);
            move |command| {
                if is_keep_alive(command) {
                    return Reply::Answer(default_answer(command));
                }
                asked.lock().unwrap().push(shown(command));
                Reply::Answer(answer(command).unwrap_or_else(|| BinaryResponse::new_error(ErrorCode::InternalError)))
            }
        });
        let mut options = options(node.address());
        change(&mut options);
        let Rpc { servers, watch } = Rpc::bind(options).unwrap();
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.front().local_addr()).collect();
        let running = servers.into_iter().map(|server| server.run(std::future::pending())).collect();
        let (main, speculative) = (addresses[0], addresses[1]);
        Bridge {
            node,
            main,
            speculative,
            watch,
            asked,
            client: sidecar::sse_client::stream::http_client(std::time::Duration::from_secs(5)).unwrap(),
            _servers: running,
        }
    }

    /// What the node was asked, keep-alives aside.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The answer to a body, sent to the main server.
    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Value {
        let request = self.request(self.main).body(body.into());
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    /// A request to a server, without a body.
    pub(crate) fn request(&self, server: SocketAddr) -> reqwest::RequestBuilder {
        self.client.post(format!("http://{server}/rpc")).header("content-type", "application/json")
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// The answer to a call.
    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        self.post(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()).await
    }

    /// The answer to a recorded request, by the server that it was for.
    pub(crate) async fn answer_to(&self, sample: &Sample) -> Value {
        let server = if sample.server == "speculative" { self.speculative } else { self.main };
        let response = self.request(server).body(sample.request.to_string()).send().await.unwrap();
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }
}

fn is_keep_alive(command: &Command) -> bool {
    match command {
        Command::Get(request) => information_tag(request) == Some(InformationRequestTag::ProtocolVersion),
        _ => false,
    }
}

fn shown(command: &Command) -> String {
    match command {
        Command::Get(request) => match information_tag(request) {
            Some(tag) => format!("{tag:?}"),
            None => format!("{request:?}"),
        },
        Command::TryAcceptTransaction { .. } => "TryAcceptTransaction".to_owned(),
        Command::TrySpeculativeExec { .. } => "TrySpeculativeExec".to_owned(),
    }
}

/// A request and its answer, recorded from the reference in front of a real node.
pub(crate) struct Sample {
    pub(crate) server: String,
    pub(crate) request: Value,
    pub(crate) response: Value,
}

impl Sample {
    pub(crate) fn read(name: &str) -> Sample {
        let path = format!("{}/tests/data/rpc/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let mut sample: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let server = sample["server"].as_str().unwrap().to_owned();
        Sample { server, request: sample["request"].take(), response: sample["response"].take() }
    }

    pub(crate) fn result(&self) -> &Value {
        &self.response["result"]
    }

    /// A part of the result, as a value.
    pub(crate) fn part<T: serde::de::DeserializeOwned>(&self, pointer: &str) -> T {
        serde_json::from_value(self.result().pointer(pointer).unwrap().clone()).unwrap()
    }

    /// A proof in the result, as bytes.
    pub(crate) fn proof(&self, pointer: &str) -> Vec<u8> {
        hex::decode(self.part::<String>(pointer)).unwrap()
    }
}

/// An answer of the node with a value of casper-types 7.
pub(crate) fn value(kind: ResponseType, parts: &[&dyn Part]) -> BinaryResponse {
    let mut payload = Vec::new();
    for part in parts {
        part.add_to(&mut payload);
    }
    BinaryResponse::from_raw_bytes(kind, payload)
}

/// An answer of the node with bytes that are there already after a value.
pub(crate) trait Part {
    fn add_to(&self, payload: &mut Vec<u8>);
}

impl<T: ToBytes> Part for T {
    fn add_to(&self, payload: &mut Vec<u8>) {
        payload.extend(self.to_bytes().unwrap());
    }
}

/// Bytes as they are.
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl ToBytes for Raw {
    fn to_bytes(&self) -> Result<Vec<u8>, casper_types::bytesrepr::Error> {
        Ok(self.0.clone())
    }

    fn serialized_length(&self) -> usize {
        self.0.len()
    }
}

pub(crate) fn nothing() -> BinaryResponse {
    BinaryResponse::new_empty()
}

pub(crate) fn error(code: ErrorCode) -> BinaryResponse {
    BinaryResponse::new_error(code)
}
