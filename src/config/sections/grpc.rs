//! `[grpc]`: the gRPC gateway, its upstreams, and the streams that are recorded.

use std::{collections::HashSet, net::IpAddr, path::PathBuf};

use serde::Deserialize;
use sidecar_log_format::{KIND_NAME_BYTES_MAX, KINDS_MAX};

use super::listen::{self, OneOrSeveral, TlsKeys, TokenKeys};
use crate::{
    config::{
        bounds::{COUNT_MAX, DAY_SECONDS, KIB, MIB},
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, bytes, count, port, seconds},
        error::ConfigError,
        section::{Section, yes},
    },
    engine::stream::PortOptions,
    grpc::{DescriptorSource, EventForm, JsonForm, Options, StreamOptions, UpstreamOptions, is_event_name},
};

const PORT: u16 = 15053;
const STREAMS_MAX: usize = 1000;
/// Connections without a stream, beside those that may have one.
const SPARE_CONNECTIONS: usize = 1000;
/// The longest name of a log: that of a folder, with what is added to it.
const NAME_BYTES_MAX: usize = 64;
/// Logs that others have.
const TAKEN_NAMES: [&str; 2] = ["casper", "beacon"];

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct Grpc")]
pub(in crate::config) struct Keys {
    #[serde(default = "yes")]
    pub(in crate::config) enable_server: bool,
    port: Option<i64>,
    ip_address: Option<OneOrSeveral<IpAddr>>,
    cors_origin: Option<OneOrSeveral<String>>,
    tls: Option<TlsKeys>,
    bearer_tokens: Option<TokenKeys>,
    max_concurrent_streams: Option<i64>,
    message_bytes_max: Option<i64>,
    call_timeout_seconds: Option<i64>,
    #[serde(default)]
    generate_unbound_methods: bool,
    emit_unpopulated: Option<bool>,
    discard_unknown: Option<bool>,
    #[serde(default)]
    use_proto_names: bool,
    #[serde(default)]
    include_type_url: bool,
    #[serde(default)]
    data_format: DataFormat,
    #[serde(default)]
    event_format: EventForm,
    wrap_results: Option<bool>,
    accept_forms: Option<bool>,
    #[serde(default)]
    upstreams: Vec<UpstreamKeys>,
    #[serde(default)]
    pub(in crate::config) streams: Vec<StreamKeys>,
}

/// How the data of an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DataFormat {
    /// As JSON.
    #[default]
    Json,
    /// As a string with the JSON in it.
    Quoted,
}

/// One of `[[grpc.upstreams]]`.
#[derive(Debug, Deserialize)]
#[serde(expecting = "struct Upstream")]
pub(in crate::config) struct UpstreamKeys {
    name: String,
    address: String,
    ca_certificate: Option<PathBuf>,
    descriptor_set: Option<PathBuf>,
    #[serde(default)]
    protos: Vec<PathBuf>,
    #[serde(default)]
    include_paths: Vec<PathBuf>,
    #[serde(default)]
    reflection: bool,
}

/// One of `[[grpc.streams]]`.
#[derive(Debug, Deserialize)]
#[serde(expecting = "struct Stream")]
pub(in crate::config) struct StreamKeys {
    name: String,
    upstream: String,
    method: String,
    #[serde(default)]
    request: toml::Table,
    path: String,
    event_field: Option<String>,
    #[serde(default)]
    event_names: Vec<String>,
    #[serde(default)]
    identity_fields: Vec<String>,
}

/// `[grpc]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "grpc",
    is_list: false,
    text: "A gateway to gRPC servers: their methods are served over HTTP, and streams of theirs are recorded into logs. \
           GET /openapi.json describes what is served.",
    keys: &[
        KeyDescription::new(
            "enable_server",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether methods are served and streams recorded.",
        )
        .with_example("false"),
        listen::IP_ADDRESS,
        KeyDescription::new(
            "port",
            port(0),
            DefaultValue::Value("15053"),
            "The port to listen on. 0 is any free port.",
        ),
        listen::cors_origin("\"*\""),
        KeyDescription::new(
            "max_concurrent_streams",
            count(1, COUNT_MAX),
            DefaultValue::Value("1000"),
            "The most calls and streams that are open at once, on all paths. Further ones are refused.",
        ),
        KeyDescription::new(
            "message_bytes_max",
            bytes(KIB, 256 * MIB),
            DefaultValue::Value("\"4 MiB\""),
            "The largest message of a server, and the largest body of a request.",
        ),
        KeyDescription::new(
            "call_timeout_seconds",
            seconds(1, DAY_SECONDS),
            DefaultValue::Value("60"),
            "How long a call with one answer may take. A client may ask for less with the header Grpc-Timeout.",
        ),
        KeyDescription::new(
            "generate_unbound_methods",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether methods without a google.api.http rule are served, as POST /package.Service/Method.",
        ),
        KeyDescription::new(
            "emit_unpopulated",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether fields that hold their default are in the JSON.",
        ),
        KeyDescription::new(
            "discard_unknown",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether unknown fields in the JSON of a request are ignored. Without it such a request is refused.",
        ),
        KeyDescription::new(
            "use_proto_names",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether fields have the names of the .proto file instead of lowerCamelCase.",
        ),
        KeyDescription::new(
            "include_type_url",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether the data of a gateway.EventSource begins with its \"@type\".",
        ),
        KeyDescription::new(
            "data_format",
            Kind::Word(&["json", "quoted"]),
            DefaultValue::Value("\"json\""),
            "How the data of a gateway.EventSource is written: as JSON, or as a string with that JSON in it.",
        ),
        KeyDescription::new(
            "event_format",
            Kind::Word(&["standard", "fork"]),
            DefaultValue::Value("\"standard\""),
            "How the events of a gateway.EventSource are framed: as the standard of event streams has it, or in the bytes of \
             the fork prysmaticlabs/grpc-gateway, for clients that were made for it.",
        ),
        KeyDescription::new(
            "wrap_results",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether each line of a stream has its message as \"result\". Without it the line is the message.",
        ),
        KeyDescription::new(
            "accept_forms",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether a POST of a form is answered as a GET with its fields as parameters, or as the method in the header \
             X-HTTP-Method-Override.",
        ),
    ],
};

/// `[[grpc.upstreams]]`.
pub(in crate::config) const UPSTREAM: SectionDescription = SectionDescription {
    path: "grpc.upstreams",
    is_list: true,
    text: "A gRPC server. Its services are described by exactly one of descriptor_set, protos and reflection.",
    keys: &[
        KeyDescription::new("name", Kind::Text, DefaultValue::Required, "Its name for streams and log lines.")
            .with_example("\"chain\""),
        KeyDescription::new(
            "address",
            Kind::Text,
            DefaultValue::Required,
            "Where it is, with http or https. With the latter, the connection is encrypted.",
        )
        .with_example("\"http://127.0.0.1:50051\""),
        KeyDescription::new(
            "descriptor_set",
            Kind::Path,
            DefaultValue::Otherwise("none"),
            "The file that describes its services, made by `buf build -o` or `protoc --include_imports \
             --descriptor_set_out`.",
        )
        .with_example("\"chain.binpb\""),
        KeyDescription::new(
            "protos",
            Kind::Texts,
            DefaultValue::Otherwise("none"),
            "The .proto files that describe its services. They are compiled at the start.",
        )
        .with_example("[\"chain.proto\"]"),
        KeyDescription::new(
            "include_paths",
            Kind::Texts,
            DefaultValue::Otherwise("the folders of the files"),
            "The folders that the imports of the .proto files are in.",
        )
        .with_example("[\"protos\"]"),
        KeyDescription::new(
            "reflection",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether the server is asked to describe its services, by server reflection.",
        )
        .with_example("true"),
        KeyDescription::new(
            "ca_certificate",
            Kind::Path,
            DefaultValue::Otherwise("the system's authorities"),
            "The PEM file with the authorities to trust for an https address.",
        )
        .with_example("\"ca.pem\""),
    ],
};

/// `[[grpc.streams]]`.
pub(in crate::config) const STREAM: SectionDescription = SectionDescription {
    path: "grpc.streams",
    is_list: true,
    text: "A stream to record: it is subscribed to once, stored in a log of its own, and served to any number of clients, who \
           miss nothing across reconnects.",
    keys: &[
        KeyDescription::new(
            "name",
            Kind::Text,
            DefaultValue::Required,
            "The name of its log: up to 64 letters, digits, - and _.",
        )
        .with_example("\"pings\""),
        KeyDescription::new("upstream", Kind::Text, DefaultValue::Required, "The name of its server.")
            .with_example("\"chain\""),
        KeyDescription::new(
            "method",
            Kind::Text,
            DefaultValue::Required,
            "The method that is called, one that answers with a stream.",
        )
        .with_example("\"demo.v1.Events/Subscribe\""),
        KeyDescription::new(
            "request",
            Kind::Table,
            DefaultValue::Value("{}"),
            "The fields of the request message.",
        )
        .with_example("{ topic = \"pong\" }"),
        KeyDescription::new(
            "path",
            Kind::Text,
            DefaultValue::Required,
            "The path that the log is served at. GET replays it with start_from=ID or Last-Event-ID.",
        )
        .with_example("\"/streams/pings\""),
        KeyDescription::new(
            "event_field",
            Kind::Text,
            DefaultValue::Otherwise("events have no name"),
            "The field with an event's name. A gateway.EventSource has its own.",
        )
        .with_example("\"event\""),
        KeyDescription::new(
            "event_names",
            Kind::Texts,
            DefaultValue::Value("[]"),
            "Up to 62 names of events that readers can select with types=NAME,NAME. Only events that are stored after their \
             name was listed are selected.",
        )
        .with_example("[\"ping\", \"pong\"]"),
        KeyDescription::new(
            "identity_fields",
            Kind::Texts,
            DefaultValue::Value("[]"),
            "The fields that make a message what it is, so that one that comes again is stored once. Without any, every \
             message is a new event.",
        )
        .with_example("[\"id\"]"),
    ],
};

pub(in crate::config) fn check(keys: Keys, section: &Section<'_>) -> Result<Options, ConfigError> {
    let default = PortOptions::default();
    let streams_max = section.number_or("max_concurrent_streams", keys.max_concurrent_streams, STREAMS_MAX)?;
    let listen = listen::Keys::new(&keys.ip_address, &keys.cors_origin, &keys.tls, &keys.bearer_tokens);
    let port = PortOptions {
        port: section.number_or("port", keys.port, PORT)?,
        listen: listen.check(default.listen.origins, section)?,
        streams_max,
        max_connections: streams_max.saturating_add(SPARE_CONNECTIONS).min(1_000_000),
        ..default
    };
    let mut upstreams: Vec<UpstreamOptions> = Vec::new();
    for (index, keys) in keys.upstreams.into_iter().enumerate() {
        let section = section.below(&format!("upstreams[{index}]"));
        if upstreams.iter().any(|known| known.name == keys.name) {
            return Err(section.invalid("name", quoted(&keys.name), "give every upstream a name of its own"));
        }
        upstreams.push(upstream(keys, &section)?);
    }
    let mut streams = Vec::new();
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (index, keys) in keys.streams.into_iter().enumerate() {
        let section = section.below(&format!("streams[{index}]"));
        let stream = stream(keys, &upstreams, &section)?;
        if !names.insert(stream.name.clone()) {
            return Err(section.invalid("name", quoted(&stream.name), "give every stream a name of its own"));
        }
        if !paths.insert(stream.path.clone()) {
            return Err(section.invalid("path", quoted(&stream.path), "give every stream a path of its own"));
        }
        streams.push(stream);
    }
    let default = Options::new(port, upstreams);
    let json = JsonForm {
        emit_unpopulated: keys.emit_unpopulated.unwrap_or(default.json.emit_unpopulated),
        use_proto_names: keys.use_proto_names,
        include_type_url: keys.include_type_url,
        quoted: keys.data_format == DataFormat::Quoted,
    };
    Ok(Options {
        streams,
        generate_unbound_methods: keys.generate_unbound_methods,
        discard_unknown: keys.discard_unknown.unwrap_or(default.discard_unknown),
        json,
        wraps_results: keys.wrap_results.unwrap_or(default.wraps_results),
        event_form: keys.event_format,
        takes_forms: keys.accept_forms.unwrap_or(default.takes_forms),
        message_bytes_max: section.number_or("message_bytes_max", keys.message_bytes_max, default.message_bytes_max)?,
        call_timeout: section.seconds_or("call_timeout_seconds", keys.call_timeout_seconds, default.call_timeout)?,
        ..default
    })
}

fn upstream(keys: UpstreamKeys, section: &Section<'_>) -> Result<UpstreamOptions, ConfigError> {
    let UpstreamKeys { name, address, ca_certificate, descriptor_set, protos, include_paths, reflection } = keys;
    let is_address = url::Url::parse(&address)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty());
    if !is_address {
        return Err(section.invalid("address", quoted(&address), "set it to http://HOST:PORT or https://HOST:PORT"));
    }
    let descriptors = match (descriptor_set, protos.is_empty(), reflection) {
        (Some(set), true, false) => DescriptorSource::Set(set),
        (None, false, false) => DescriptorSource::Protos { files: protos, include_paths },
        (None, true, true) => DescriptorSource::Reflection,
        _ => {
            let fix =
                "give it exactly one of `descriptor_set = \"FILE\"`, `protos = [\"FILE\"]` and `reflection = true`";
            return Err(section.invalid("name", quoted(&name), fix));
        }
    };
    Ok(UpstreamOptions { name, address, ca_certificate, descriptors })
}

fn stream(
    keys: StreamKeys,
    upstreams: &[UpstreamOptions],
    section: &Section<'_>,
) -> Result<StreamOptions, ConfigError> {
    let StreamKeys { name, upstream, method, request, path, event_field, event_names, identity_fields } = keys;
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_part) {
        let fix = "set it to 1 to 64 letters, digits, `-` and `_`: it is the name of the log's folder";
        return Err(section.invalid("name", quoted(&name), fix));
    }
    if TAKEN_NAMES.contains(&name.as_str()) {
        return Err(section.invalid("name", quoted(&name), "give it another name: that log is another part's"));
    }
    if !upstreams.iter().any(|known| known.name == upstream) {
        let fix = "set it to the `name` of one of `[[grpc.upstreams]]`";
        return Err(section.invalid("upstream", quoted(&upstream), fix));
    }
    if !method.split_once('/').is_some_and(|(service, method)| service.contains('.') && !method.is_empty()) {
        return Err(section.invalid("method", quoted(&method), "set it to package.Service/Method"));
    }
    if !path.starts_with('/') || path.contains(['?', '#', '%', ' ']) {
        return Err(section.invalid("path", quoted(&path), "set it to a path such as '/streams/pings'"));
    }
    // Readers select by a list of names with commas between them.
    let is_name = |name: &String| is_event_name(name) && name.len() <= KIND_NAME_BYTES_MAX && !name.contains(',');
    if event_names.len() > KINDS_MAX || !event_names.iter().all(is_name) {
        let fix = format!(
            "list at most {KINDS_MAX} names, each of 1 to {KIND_NAME_BYTES_MAX} bytes without commas and line breaks"
        );
        return Err(section.invalid("event_names", quoted(&event_names.join("', '")), &fix));
    }
    let fix = "set it to a table with the fields of the request message";
    let request =
        serde_json::to_value(&request).map_err(|error| -> ConfigError { section.invalid("request", error, fix) })?;
    Ok(StreamOptions { name, upstream, method, request, path, event_field, event_names, identity_fields })
}

fn quoted(text: &str) -> String {
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::samples::{GRPC, loaded, refused};

    fn options(text: &str) -> Options {
        loaded(text).config.grpc.unwrap()
    }

    #[test]
    fn the_example_loads_without_a_warning_and_defaults_are_the_documented_ones() {
        assert_eq!(loaded(GRPC).warnings, []);
        let small = "[grpc]\n[[grpc.upstreams]]\nname = 'x'\naddress = 'http://127.0.0.1:1'\nreflection = true\n";
        let (small, full) = (options(small), options(GRPC));
        assert_eq!((small.port.port, small.port.streams_max, small.port.max_connections), (15053, 1000, 2000));
        assert_eq!(small.port, full.port);
        assert_eq!((small.json, small.discard_unknown), (full.json, full.discard_unknown));
        assert_eq!((small.message_bytes_max, small.call_timeout), (full.message_bytes_max, full.call_timeout));
        assert_eq!((small.message_bytes_max, small.call_timeout), (4 << 20, Duration::from_secs(60)));
        assert_eq!(full.streams[0].identity_fields, ["id"]);
        assert_eq!(full.streams[0].request, serde_json::json!({"topic": "pong"}));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_line_and_a_fix() {
        for (good, bad, parts) in [
            ("name = \"pings\"", "name = \"p/s\"", ["`grpc.streams[0].name` is 'p/s' (line ", "the log's folder"]),
            ("name = \"pings\"", "name = \"casper\"", ["`grpc.streams[0].name`", "another part's"]),
            (
                "upstream = \"chain\"",
                "upstream = \"sea\"",
                ["`grpc.streams[0].upstream` is 'sea' (line ", "`name` of one"],
            ),
            (
                "method = \"demo.v1.Events/Subscribe\"",
                "method = \"Subscribe\"",
                ["`grpc.streams[0].method`", "package.Service"],
            ),
            ("path = \"/streams/pings\"", "path = \"pings\"", ["`grpc.streams[0].path`", "such as"]),
            (
                "address = \"http://127.0.0.1:50051\"",
                "address = \"127.0.0.1:50051\"",
                ["`grpc.upstreams[0].address`", "http://HOST:PORT"],
            ),
            (
                "descriptor_set = \"chain.binpb\"",
                "reflection = true\nprotos = ['x']",
                ["`grpc.upstreams[0].name`", "exactly one of"],
            ),
            (
                "event_names = [\"ping\", \"pong\"]",
                "event_names = ['a,b']",
                ["`grpc.streams[0].event_names`", "at most 62"],
            ),
            ("port = 15053", "port = 70000", ["`grpc.port` is 70000 (line ", "0 to 65535"]),
        ] {
            assert!(GRPC.contains(good), "{good}");
            let error = refused(&GRPC.replacen(good, bad, 1));
            for part in parts {
                assert!(error.contains(part), "{part} in {error}");
            }
        }
    }

    #[test]
    fn recorded_streams_need_a_storage_folder_and_the_gateway_alone_does_not() {
        let without = GRPC.replace("[storage]", "").replace("storage_folder = ", "# storage_folder = ");
        assert!(refused(&without).contains("`[[grpc.streams]]` are stored in logs"), "{}", refused(&without));
        let (gateway, _) = without.split_once("[[grpc.streams]]").unwrap();
        assert!(loaded(gateway).config.storage.is_none());
    }
}
