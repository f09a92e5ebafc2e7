//! `[rpc_server]` and its two servers, `[rpc_server.main_server]` and `[rpc_server.speculative_exec_server]`.

use std::net::IpAddr;

use serde::Deserialize;

use super::{
    listen::{self, OneOrSeveral, TlsKeys, TokenKeys},
    node_client,
};
use crate::{
    casper::rpc::{Role, RpcOptions, ServerOptions},
    config::{
        bounds::{COUNT_MAX, TIB},
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, bytes, count},
        error::ConfigError,
        section::{Section, yes},
    },
    engine::http::cors::Origins,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct RpcServer")]
pub(in crate::config) struct Keys {
    pub(in crate::config) main_server: ListenerKeys,
    speculative_exec_server: Option<ListenerKeys>,
    node_client: node_client::Keys,
    answer_cache_bytes: Option<i64>,
    #[serde(default)]
    answer_from_log: bool,
}

/// One of the two servers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct RpcListener")]
pub(in crate::config) struct ListenerKeys {
    #[serde(default = "yes")]
    pub(in crate::config) enable_server: bool,
    ip_address: OneOrSeveral<IpAddr>,
    port: i64,
    qps_limit: Option<i64>,
    max_body_bytes: Option<i64>,
    cors_origin: Option<OneOrSeveral<String>>,
    tls: Option<TlsKeys>,
    bearer_tokens: Option<TokenKeys>,
    #[serde(default)]
    trust_client_ip_headers: bool,
    batch_requests_max: Option<i64>,
}

/// `[rpc_server]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "rpc_server",
    is_list: false,
    text: "The node's JSON-RPC API. An unknown key in this section or below it is an error.",
    keys: &[
        KeyDescription::new(
            "answer_cache_bytes",
            bytes(0, TIB),
            DefaultValue::Value("\"32 MiB\""),
            "Memory for answers that never change (blocks by hash, executed transactions).",
        ),
        KeyDescription::new(
            "answer_from_log",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether the log answers look-ups of blocks and transactions while the node is away.",
        ),
    ],
};

/// `[rpc_server.main_server]`.
pub(in crate::config) const MAIN_SERVER: SectionDescription = SectionDescription {
    path: "rpc_server.main_server",
    is_list: false,
    text: "The main JSON-RPC server.",
    keys: &const { listener_keys("true", "7777", "100") },
};

/// `[rpc_server.speculative_exec_server]`.
pub(in crate::config) const SPECULATIVE_EXEC_SERVER: SectionDescription = SectionDescription {
    path: "rpc_server.speculative_exec_server",
    is_list: false,
    text: "Speculative execution, on a port of its own. The section may be left out.",
    keys: &const { listener_keys("false", "7778", "1") },
};

/// The keys of either server.
const fn listener_keys(
    enabled_in_example: &'static str,
    port_in_example: &'static str,
    qps_limit: &'static str,
) -> [KeyDescription; 8] {
    [
        listen::ENABLE_SERVER.with_example(enabled_in_example),
        listen::IP_ADDRESS.of_reference(DefaultValue::Required).with_example("\"0.0.0.0\""),
        listen::port(port_in_example),
        KeyDescription::reference(
            "qps_limit",
            count(1, COUNT_MAX),
            DefaultValue::Value(qps_limit),
            "Requests per second that one client address may send.",
        ),
        KeyDescription::reference(
            "max_body_bytes",
            bytes(1, i64::MAX),
            DefaultValue::Value("2_621_440"),
            "The largest body of a request.",
        ),
        listen::cors_origin("\"\"").of_reference(DefaultValue::Value("\"\"")),
        KeyDescription::new(
            "trust_client_ip_headers",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether a client's address is read from X-Real-IP, X-Forwarded-For or Forwarded. Set it only where a proxy of \
             yours sets them.",
        ),
        KeyDescription::new(
            "batch_requests_max",
            count(0, 10_000),
            DefaultValue::Value("100"),
            "The most requests in one JSON-RPC batch. 0 refuses batches.",
        ),
    ]
}

/// `[rpc_server]` with at least one enabled server.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcServer {
    /// The enabled servers, and the link to the node.
    pub options: RpcOptions,
    /// Whether the log answers while the node is away.
    pub answer_from_log: bool,
}

/// The settings, or `None` when no server is enabled. `has_log` says whether there is a log to answer from.
pub(in crate::config) fn check(
    keys: Keys,
    has_log: bool,
    network_name: Option<&str>,
    section: &Section<'_>,
) -> Result<Option<RpcServer>, ConfigError> {
    let main = Some(keys.main_server).filter(|server| server.enable_server);
    let main = main.map(|server| check_listener(server, Role::Main, &section.below("main_server"))).transpose()?;
    let speculative = keys.speculative_exec_server.filter(|server| server.enable_server);
    let speculative =
        speculative.map(|server| check_listener(server, Role::Speculative, &section.below("speculative_exec_server")));
    let servers: Vec<_> = main.into_iter().chain(speculative.transpose()?).collect();
    if servers.is_empty() {
        return Ok(None);
    }
    let link = node_client::check(&keys.node_client, network_name, &section.below("node_client"))?;
    let answer_cache_bytes = section.number_or("answer_cache_bytes", keys.answer_cache_bytes, 32 << 20)?;
    let answer_from_log = keys.answer_from_log;
    if answer_from_log && !has_log {
        let fix = "add `[sse_server]`, which makes the log, or set it to false";
        return Err(section.invalid("answer_from_log", "true", fix));
    }
    Ok(Some(RpcServer { options: RpcOptions { servers, link, answer_cache_bytes }, answer_from_log }))
}

fn check_listener(keys: ListenerKeys, role: Role, section: &Section<'_>) -> Result<ServerOptions, ConfigError> {
    let default_qps_limit = match role {
        Role::Main => 100,
        Role::Speculative => 1,
    };
    let listen = listen::Keys::new(&keys.ip_address, &keys.cors_origin, &keys.tls, &keys.bearer_tokens);
    Ok(ServerOptions {
        role,
        port: section.number("port", keys.port)?,
        listen: listen.check(Origins::Off, section)?,
        qps_limit: section.number_or("qps_limit", keys.qps_limit, default_qps_limit)?,
        max_body_bytes: section.number_or("max_body_bytes", keys.max_body_bytes, 2_621_440)?,
        trust_client_ip_headers: keys.trust_client_ip_headers,
        batch_requests_max: section.number_or("batch_requests_max", keys.batch_requests_max, 100)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::samples::{DEFAULT_FULL, RPC_ONLY, loaded, refused},
        engine::http::ListenOptions,
    };

    #[test]
    fn defaults_are_the_documented_ones() {
        let speculative = "[rpc_server.speculative_exec_server]\nip_address = '::'\nport = 0\n";
        let rpc = loaded(&format!("{RPC_ONLY}{speculative}")).config.rpc_server.unwrap();
        let listen = |address: &str| ListenOptions {
            origins: Origins::Off,
            ..ListenOptions::on(address.parse::<IpAddr>().unwrap())
        };
        let main = ServerOptions {
            role: Role::Main,
            port: 7777,
            listen: listen("0.0.0.0"),
            qps_limit: 100,
            max_body_bytes: 2_621_440,
            trust_client_ip_headers: false,
            batch_requests_max: 100,
        };
        let speculative =
            ServerOptions { role: Role::Speculative, port: 0, listen: listen("::"), qps_limit: 1, ..main.clone() };
        assert_eq!(rpc.options.servers, [main, speculative]);
        assert_eq!((rpc.options.answer_cache_bytes, rpc.answer_from_log), (32 << 20, false));
    }

    #[test]
    fn answers_from_the_log_need_a_log() {
        let error = refused(&format!("[rpc_server]\nanswer_from_log = true\n{RPC_ONLY}"));
        assert!(error.contains("`rpc_server.answer_from_log` is true (line 2); add `[sse_server]`"), "{error}");
        let full = DEFAULT_FULL.replace("answer_from_log = false", "answer_from_log = true");
        assert!(loaded(&full).config.rpc_server.unwrap().answer_from_log);
    }
}
