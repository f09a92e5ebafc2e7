//! `[beacon]`: which consensus clients to read, and the server of their events.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use serde::Deserialize;

use super::listen::{self, OneOrSeveral, TlsKeys, TokenKeys};
use super::timeouts;
use crate::{
    beacon::{
        source::endpoint::{Authorization, Endpoint},
        topics,
    },
    casper::export::postgresql::Password,
    config::{
        bounds::{COUNT_MAX, SECONDS_MAX},
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, count, port, seconds},
        error::ConfigError,
        section::{Section, yes},
    },
    engine::stream::PortOptions,
    sse_client::stream::Timeouts,
};

/// Connections without a stream, beside those that may have one.
const SPARE_CONNECTIONS: usize = 1000;
/// The longest name of a topic.
const TOPIC_BYTES_MAX: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct Beacon")]
pub(in crate::config) struct Keys {
    #[serde(default = "yes")]
    pub(in crate::config) enable_server: bool,
    port: Option<i64>,
    ip_address: Option<OneOrSeveral<IpAddr>>,
    cors_origin: Option<OneOrSeveral<String>>,
    tls: Option<TlsKeys>,
    bearer_tokens: Option<TokenKeys>,
    max_concurrent_subscribers: Option<i64>,
    #[serde(default)]
    connections: Vec<ConnectionKeys>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct Connection")]
pub(in crate::config) struct ConnectionKeys {
    /// May hold a secret.
    url: Password,
    topics: Option<Vec<String>>,
    username: Option<String>,
    password: Option<Password>,
    bearer_token: Option<Password>,
    max_attempts: Option<i64>,
    delay_between_retries_in_seconds: Option<i64>,
    connection_timeout_in_seconds: Option<i64>,
    no_message_timeout_in_seconds: Option<i64>,
    sleep_between_keep_alive_checks_in_seconds: Option<i64>,
}

/// `[beacon]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "beacon",
    is_list: false,
    text: "Event streams of Ethereum consensus clients: they are stored in a log of their own, and served at /eth/v1/events.",
    keys: &[
        KeyDescription::new(
            "enable_server",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether the clients are read and served.",
        )
        .with_example("false"),
        listen::IP_ADDRESS,
        KeyDescription::new(
            "port",
            port(0),
            DefaultValue::Value("15052"),
            "The port to listen on. 0 is any free port.",
        ),
        listen::cors_origin("\"*\""),
        KeyDescription::new(
            "max_concurrent_subscribers",
            count(1, COUNT_MAX),
            DefaultValue::Value("100"),
            "The most streams that are open at once. Further clients are refused.",
        ),
    ],
};

/// `[[beacon.connections]]`.
pub(in crate::config) const CONNECTION: SectionDescription = SectionDescription {
    path: "beacon.connections",
    is_list: true,
    text: "A consensus client to read. Several tables, one for each client, make one stream without duplicates.",
    keys: &[
        KeyDescription::new(
            "url",
            Kind::Secret,
            DefaultValue::Required,
            "Where the client's API is, with http or https. It may hold what lets Sidecar in: USER:PASSWORD@ or TOKEN@, or a key \
             in its path or query. None of that is logged.",
        )
        .with_example("\"http://127.0.0.1:5052\""),
        KeyDescription::new(
            "topics",
            Kind::Texts,
            DefaultValue::Otherwise("every topic of the standard"),
            "The topics to read.",
        )
        .with_example("[\"head\", \"block\", \"finalized_checkpoint\"]"),
        KeyDescription::new(
            "username",
            Kind::Text,
            DefaultValue::Otherwise("none"),
            "The user, for a client that asks for basic authentication.",
        )
        .with_example("\"reader\""),
        KeyDescription::new("password", Kind::Secret, DefaultValue::Otherwise("none"), "The password of that user.")
            .with_example("\"p@$$w0rd\""),
        KeyDescription::new(
            "bearer_token",
            Kind::Secret,
            DefaultValue::Otherwise("none"),
            "The token, for a client that asks for one. Not beside a user.",
        )
        .with_example("\"a-token\""),
        KeyDescription::new(
            "max_attempts",
            count(1, COUNT_MAX),
            DefaultValue::Otherwise("no limit"),
            "How many failures in a row end the attempts to reach this client.",
        )
        .with_example("10"),
        KeyDescription::new(
            "delay_between_retries_in_seconds",
            seconds(1, SECONDS_MAX),
            DefaultValue::Value("1"),
            "The pause after a first failure. It doubles with every further one, up to 30 s.",
        ),
        timeouts::CONNECTION,
        timeouts::SILENCE,
        timeouts::SILENCE_CHECK,
    ],
};

/// `[beacon]`, enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// How the server listens, and what it grants a client.
    pub port: PortOptions,
    /// `[[beacon.connections]]`: the clients to read, in the file's order; at least one.
    pub connections: Vec<BeaconConnection>,
}

/// One of `[[beacon.connections]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeaconConnection {
    /// Where the client is, and what it is shown to be let in.
    pub endpoint: Endpoint,
    /// The topics that are read, each once.
    pub topics: Vec<Box<str>>,
    /// How many failures in a row end the attempts; without a number, none does.
    pub max_attempts: Option<u32>,
    /// The pause after a first failure; it grows with every further one.
    pub delay_between_retries: Duration,
    /// How long it is waited for.
    pub timeouts: Timeouts,
}

pub(in crate::config) fn check(keys: Keys, has_storage: bool, section: &Section<'_>) -> Result<Beacon, ConfigError> {
    if !has_storage {
        let fix = "its events need a place: set `storage.storage_folder`, or set this key to false";
        return Err(section.invalid("enable_server", keys.enable_server, fix));
    }
    if keys.connections.is_empty() {
        let fix = "there is nothing to read: add `[[beacon.connections]]` with a `url`, or set this key to false";
        return Err(section.invalid("enable_server", keys.enable_server, fix));
    }
    let default = PortOptions::default();
    let streams_max: usize =
        section.number_or("max_concurrent_subscribers", keys.max_concurrent_subscribers, default.streams_max)?;
    let listen = listen::Keys::new(&keys.ip_address, &keys.cors_origin, &keys.tls, &keys.bearer_tokens);
    let port = PortOptions {
        port: section.number_or("port", keys.port, 15052)?,
        listen: listen.check(default.listen.origins, section)?,
        streams_max,
        max_connections: streams_max.saturating_add(SPARE_CONNECTIONS),
        ..default
    };
    let connections = keys.connections.into_iter().enumerate();
    let connections = connections
        .map(|(index, client)| check_connection(client, &section.below(&format!("connections[{index}]"))))
        .collect::<Result<_, _>>()?;
    Ok(Beacon { port, connections })
}

fn check_connection(keys: ConnectionKeys, section: &Section<'_>) -> Result<BeaconConnection, ConfigError> {
    let max_attempts = keys.max_attempts.map(|max| section.number("max_attempts", max)).transpose()?;
    let timeouts = timeouts::Keys {
        connection: keys.connection_timeout_in_seconds,
        silence: keys.no_message_timeout_in_seconds,
        silence_check: keys.sleep_between_keep_alive_checks_in_seconds,
    };
    Ok(BeaconConnection {
        max_attempts,
        delay_between_retries: section.seconds_or(
            "delay_between_retries_in_seconds",
            keys.delay_between_retries_in_seconds,
            Duration::from_secs(1),
        )?,
        timeouts: timeouts.check(section)?,
        topics: topics(keys.topics, section)?,
        endpoint: endpoint(&keys.url, keys.username, keys.password, keys.bearer_token, section)?,
    })
}

fn endpoint(
    url: &Password,
    username: Option<String>,
    password: Option<Password>,
    bearer_token: Option<Password>,
    section: &Section<'_>,
) -> Result<Endpoint, ConfigError> {
    let authorization = match (username, password, bearer_token) {
        (None, None, None) => None,
        (None, None, Some(token)) => Some(Authorization::Bearer(token.reveal().to_owned())),
        (Some(username), password, None) => {
            let password = password.map(|password| password.reveal().to_owned()).unwrap_or_default();
            Some(Authorization::Basic { username, password })
        }
        (_, _, Some(_)) => {
            let fix = "a client is shown one of them: leave it out, or `username` and `password`";
            return Err(section.invalid("bearer_token", "set beside a user or password", fix));
        }
        (None, Some(_), None) => {
            return Err(section.invalid("password", "set without `username`", "set that too"));
        }
    };
    // What is wrong with a URL says itself what to do.
    Endpoint::new(url.reveal(), authorization).map_err(|error| section.invalid("url", "unusable", &error.to_string()))
}

fn topics(names: Option<Vec<String>>, section: &Section<'_>) -> Result<Vec<Box<str>>, ConfigError> {
    let Some(names) = names else { return Ok(topics::standard().map(|topic| topic.name.into()).collect()) };
    let mut seen = BTreeSet::new();
    let mut topics = Vec::new();
    for name in names {
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
        if !is_name || name.len() > TOPIC_BYTES_MAX {
            let fix = "set it to names such as \"head\", each of at most 64 characters without spaces and commas";
            return Err(section.invalid("topics", format_args!("with '{}'", name.escape_debug()), fix));
        }
        if seen.insert(name.clone()) {
            topics.push(name.into_boxed_str());
        }
    }
    if topics.is_empty() {
        let fix = "name one topic at least, or delete the key to read all that are known";
        return Err(section.invalid("topics", "empty", fix));
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{BEACON, DEFAULT_SSE_ONLY, PASSWORD, load, loaded, refused};

    const SMALL: &str = "[storage]\nstorage_folder = 'x'\n[[beacon.connections]]\nurl = 'http://127.0.0.1:5052'\n";

    fn beacon(text: &str) -> Beacon {
        loaded(text).config.beacon.unwrap()
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let Beacon { port, connections } = beacon(SMALL);
        assert_eq!((port.port, port.streams_max, port.max_connections), (15052, 100, 1100));
        let [connection] = connections.as_slice() else { panic!("{connections:?}") };
        assert_eq!(connection.topics.len(), 25);
        assert_eq!((connection.max_attempts, connection.delay_between_retries.as_secs()), (None, 1));
        assert_eq!(connection.endpoint.name(), "127.0.0.1:5052");
    }

    #[test]
    fn it_runs_alone_or_beside_casper_and_off_it_is_absent() {
        assert!(loaded(SMALL).config.sse_server.is_none());
        let beside = format!("{DEFAULT_SSE_ONLY}\n[[beacon.connections]]\nurl = 'http://127.0.0.1:5052'\n");
        let config = loaded(&beside).config;
        assert!(config.sse_server.is_some() && config.beacon.is_some());
        let off = loaded(&format!("{beside}[beacon]\nenable_server = false\n")).config;
        assert!(off.beacon.is_none());
    }

    #[test]
    fn topics_are_taken_over_once_each_and_must_be_names() {
        let topics = |list: &str| format!("{SMALL}topics = {list}\n");
        let taken = beacon(&topics("['head', 'late_head', 'head']")).connections[0].topics.clone();
        assert_eq!(taken, ["head".into(), "late_head".into()]);
        for wrong in ["[]", "['']", "['a,b']", "['a b']", "[\"a\\n\"]"] {
            let error = refused(&topics(wrong));
            assert!(error.contains("`beacon.connections[0].topics` is "), "{error}");
        }
    }

    #[test]
    fn credentials_come_from_one_place_and_are_never_shown() {
        for keys in [format!("username = 'u'\npassword = '{PASSWORD}'"), format!("bearer_token = '{PASSWORD}'")] {
            let text = format!("{SMALL}{keys}\n");
            assert!(!format!("{:?}", load(&text).unwrap()).contains(PASSWORD));
        }
        let url = |url: &str| SMALL.replace("http://127.0.0.1:5052", url);
        let in_url = url(&format!("https://u:{PASSWORD}@node/{PASSWORD}"));
        assert!(!format!("{:?}", load(&in_url).unwrap()).contains(PASSWORD));
        for wrong in [
            format!("{in_url}bearer_token = '{PASSWORD}'\n"),
            format!("{SMALL}username = 'u'\nbearer_token = '{PASSWORD}'\n"),
            format!("{SMALL}password = '{PASSWORD}'\n"),
            url(&format!("ftp://u:{PASSWORD}@node")),
            format!("{in_url}topics = 1\n"),
            format!("{in_url}topics = \n"),
        ] {
            let error = refused(&wrong);
            assert!(!error.contains(PASSWORD) && error.contains("line "), "{error}");
        }
    }

    #[test]
    fn without_a_place_or_a_client_it_is_refused_with_the_fix() {
        let error = refused(&BEACON.replace("storage_folder", "# storage_folder"));
        assert!(error.contains("`beacon.enable_server` is true") && error.contains("set `storage.storage_folder`"));
        let error = refused("[storage]\nstorage_folder = 'x'\n[beacon]\nenable_server = true\n");
        assert!(error.contains("add `[[beacon.connections]]`"), "{error}");
    }
}
