//! A client of the bridge.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// The two servers, and what their documents have about each method's result.
pub(crate) struct Rpc {
    client: reqwest::Client,
    main: SocketAddr,
    speculative: SocketAddr,
    results: BTreeMap<String, Value>,
}

/// An answer over HTTP.
pub(crate) struct Answer {
    pub(crate) is_from_log: bool,
    pub(crate) json: Value,
}

impl Rpc {
    pub(crate) fn new(main: SocketAddr, speculative: SocketAddr) -> Rpc {
        let documents = [main_document(), speculative_document()];
        let methods = documents.iter().flat_map(|document| document["methods"].as_array().cloned().unwrap_or_default());
        let results = methods.filter_map(|mut method| {
            let name = method["name"].as_str()?.to_owned();
            Some((name, method["result"]["schema"].take()))
        });
        Rpc { client: reqwest::Client::new(), main, speculative, results: results.collect() }
    }

    /// Every method that the documents describe.
    pub(crate) fn described(&self) -> impl Iterator<Item = &str> {
        self.results.keys().map(String::as_str)
    }

    /// What a call is answered.
    pub(crate) async fn answer(&self, method: &str, params: Value) -> Result<Answer> {
        let server = if method.starts_with("speculative_exec") { self.speculative } else { self.main };
        self.answer_of(server, method, params).await
    }

    async fn answer_of(&self, server: SocketAddr, method: &str, params: Value) -> Result<Answer> {
        let call = json!({"jsonrpc": "2.0", "id": method, "method": method, "params": params});
        let request = self.client.post(format!("http://{server}/rpc")).header("content-type", "application/json");
        let response = request.body(call.to_string()).send().await?;
        ensure!(response.status() == 200, "status {}", response.status());
        let is_from_log = response.headers().get("x-sidecar-answered-from").is_some_and(|from| from == "log");
        let text = response.text().await?;
        let is_in_order = text.starts_with(&format!("{{\"jsonrpc\":\"2.0\",\"id\":\"{method}\",\""));
        ensure!(is_in_order, "the answer does not begin as it should: {text:.200}");
        if let Some((_, result)) = text.split_once("\"result\":") {
            ensure!(result.starts_with("{\"api_version\":\"2.0.0\","), "the result begins with {result:.100}");
        }
        Ok(Answer { is_from_log, json: serde_json::from_str(&text)? })
    }

    /// The result of a call, which has the members that the server's document promises.
    pub(crate) async fn result(&self, method: &str, params: Value) -> Result<Value> {
        let mut answer = self.answer(method, params).await?.json;
        let Some(result) = answer.get_mut("result") else { anyhow::bail!("{}", answer["error"]) };
        if let (Some(schema), Some(members)) = (self.results.get(method), result.as_object()) {
            let properties = schema["properties"].as_object().context("the document describes no members")?;
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for name in required {
                ensure!(members.contains_key(name), "the member {name} is missing in {result}");
            }
            for name in members.keys() {
                ensure!(properties.contains_key(name), "the member {name} is not in the document");
            }
        }
        Ok(result.take())
    }

    /// The code and the data of the error that a call is answered.
    pub(crate) async fn error(&self, method: &str, params: Value) -> Result<(i64, Value)> {
        let mut answer = self.answer(method, params).await?.json;
        let code = answer["error"]["code"].as_i64().with_context(|| format!("no error: {answer}"))?;
        Ok((code, answer["error"]["data"].take()))
    }

    /// The server's own document, of the main server or of the speculative one.
    pub(crate) async fn discover(&self, of_main: bool) -> Result<Value> {
        let server = if of_main { self.main } else { self.speculative };
        let mut answer = self.answer_of(server, "rpc.discover", Value::Null).await?.json;
        Ok(answer["result"]["schema"].take())
    }

    /// The main server's address, as a client is given it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.main)
    }
}

pub(crate) fn main_document() -> Value {
    serde_json::from_str(include_str!("../../../resources/openrpc/main.json")).unwrap()
}

pub(crate) fn speculative_document() -> Value {
    serde_json::from_str(include_str!("../../../resources/openrpc/speculative.json")).unwrap()
}
