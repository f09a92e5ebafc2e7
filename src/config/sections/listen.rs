//! The keys of every server's section that say where it listens and whom it lets in: `ip_address`, `port`, `cors_origin`,
//! and the sections `tls` and `bearer_tokens`.
//!
//! A server's section has the four keys of [`Keys`] in its struct, the descriptions of this file in its own, and [`tls`]
//! and [`bearer_tokens`] beside it in the catalogue.

use std::{fmt, marker::PhantomData, net::IpAddr, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{IntoDeserializer, SeqAccess, Visitor},
};

use crate::{
    config::{
        description::{self, DefaultValue, KeyDescription, Kind, SectionDescription},
        error::ConfigError,
        section::{Section, yes},
    },
    engine::http::{ListenOptions, TlsFiles, Token, TokenOptions, cors::Origins},
};

/// Addresses of one server.
const ADDRESSES_MAX: usize = 64;

/// `enable_server`.
pub(super) const ENABLE_SERVER: KeyDescription =
    KeyDescription::reference("enable_server", Kind::Switch, DefaultValue::Value("true"), "Whether this server runs.");

/// `ip_address`.
pub(super) const IP_ADDRESS: KeyDescription = KeyDescription::new(
    "ip_address",
    Kind::OneOrSeveral(&Kind::IpAddress),
    DefaultValue::Value("\"0.0.0.0\""),
    "The address to listen on, or a list of addresses, of IPv4 or IPv6.",
);

/// `port`.
pub(super) const fn port(example: &'static str) -> KeyDescription {
    let text = "The port to listen on. 0 is any free port.";
    KeyDescription::reference("port", description::port(0), DefaultValue::Required, text).with_example(example)
}

/// `cors_origin`.
pub(super) const fn cors_origin(default: &'static str) -> KeyDescription {
    KeyDescription::new(
        "cors_origin",
        Kind::OneOrSeveral(&Kind::Text),
        DefaultValue::Value(default),
        "Which web pages may read the answers. \"\": none. \"*\": any. Otherwise those of an origin, or of a list of origins.",
    )
}

/// The section `tls` of a server, at this full path.
pub(in crate::config) const fn tls(path: &'static str) -> SectionDescription {
    let text = "TLS. Without this section, connections are not encrypted.";
    SectionDescription { path, is_list: false, text, keys: TLS }
}

const TLS: &[KeyDescription] = &[
    KeyDescription::new("enabled", Kind::Switch, DefaultValue::Value("true"), "Whether this server speaks TLS.")
        .left_out(),
    KeyDescription::new(
        "certificate_file",
        Kind::Path,
        DefaultValue::Required,
        "The certificate in PEM, and those that lead to its root after it. The file is read again when it changes.",
    )
    .with_example("\"/etc/casper-sidecar/fullchain.pem\"")
    .left_out(),
    KeyDescription::new(
        "key_file",
        Kind::Path,
        DefaultValue::Required,
        "The key of the certificate in PEM. The file is read again when it changes.",
    )
    .with_example("\"/etc/casper-sidecar/key.pem\"")
    .left_out(),
];

/// The section `bearer_tokens` of a server, at this full path.
pub(in crate::config) const fn bearer_tokens(path: &'static str) -> SectionDescription {
    let text = "Tokens. A client must send `Authorization: Bearer TOKEN` with one of them. Without this section, every \
                client is let in. /health of the admin server and of the JSON-RPC servers is always open.";
    SectionDescription { path, is_list: false, text, keys: BEARER_TOKENS }
}

const BEARER_TOKENS: &[KeyDescription] = &[
    KeyDescription::new("enabled", Kind::Switch, DefaultValue::Value("true"), "Whether clients must send a token.")
        .left_out(),
    KeyDescription::new(
        "file",
        Kind::Path,
        DefaultValue::Otherwise("none"),
        "A file with tokens, one a line. It is read again when it changes.",
    )
    .with_example("\"/etc/casper-sidecar/tokens\""),
    KeyDescription::new(
        "variable",
        Kind::Text,
        DefaultValue::Otherwise("none"),
        "The name of an environment variable with tokens, which commas separate.",
    )
    .with_example("\"SIDECAR_TOKENS\""),
];

/// `tls`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct Tls")]
pub(in crate::config) struct TlsKeys {
    #[serde(default = "yes")]
    enabled: bool,
    certificate_file: PathBuf,
    key_file: PathBuf,
}

/// `bearer_tokens`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "struct BearerTokens")]
pub(in crate::config) struct TokenKeys {
    #[serde(default = "yes")]
    enabled: bool,
    file: Option<PathBuf>,
    variable: Option<String>,
}

/// A value, or a list of values.
#[derive(Debug)]
pub(in crate::config) struct OneOrSeveral<T>(Vec<T>);

/// The keys that each server's section has in its own struct. (A flattened struct would hide unknown keys and lose lines.)
pub(super) struct Keys<'a> {
    ip_address: Option<&'a OneOrSeveral<IpAddr>>,
    cors_origin: Option<&'a OneOrSeveral<String>>,
    tls: Option<&'a TlsKeys>,
    bearer_tokens: Option<&'a TokenKeys>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(
        ip_address: impl Into<Option<&'a OneOrSeveral<IpAddr>>>,
        cors_origin: &'a Option<OneOrSeveral<String>>,
        tls: &'a Option<TlsKeys>,
        bearer_tokens: &'a Option<TokenKeys>,
    ) -> Self {
        Self {
            ip_address: ip_address.into(),
            cors_origin: cors_origin.as_ref(),
            tls: tls.as_ref(),
            bearer_tokens: bearer_tokens.as_ref(),
        }
    }

    /// The settings of `section`. `origins` are those without the key.
    pub(super) fn check(self, origins: Origins, section: &Section<'_>) -> Result<ListenOptions, ConfigError> {
        let default = ListenOptions::default();
        let tls = self.tls.filter(|tls| tls.enabled);
        Ok(ListenOptions {
            addresses: self
                .ip_address
                .map_or(Ok(default.addresses), |addresses| check_addresses(addresses, section))?,
            tls: tls.map(|tls| TlsFiles { certificates: tls.certificate_file.clone(), key: tls.key_file.clone() }),
            tokens: match self.bearer_tokens.filter(|tokens| tokens.enabled) {
                Some(tokens) => check_tokens(tokens, &section.below("bearer_tokens"))?,
                None => TokenOptions::default(),
            },
            origins: self.cors_origin.map_or(Ok(origins), |origins| check_origins(origins, section))?,
        })
    }
}

fn check_addresses(
    OneOrSeveral(addresses): &OneOrSeveral<IpAddr>,
    section: &Section<'_>,
) -> Result<Vec<IpAddr>, ConfigError> {
    let invalid = |what: &str| {
        let fix =
            "set it to one address such as '127.0.0.1', or to a list of different ones such as ['127.0.0.1', '::1']";
        section.invalid("ip_address", what, fix)
    };
    let mut distinct = addresses.clone();
    distinct.sort();
    distinct.dedup();
    match addresses.len() {
        0 => Err(invalid("an empty list")),
        count if count > ADDRESSES_MAX => Err(invalid("too long a list")),
        count if count > distinct.len() => Err(invalid("a list that names an address twice")),
        _ => Ok(addresses.clone()),
    }
}

fn check_tokens(keys: &TokenKeys, section: &Section<'_>) -> Result<TokenOptions, ConfigError> {
    let mut given = Vec::new();
    if let Some(variable) = &keys.variable {
        let unusable = |what: &str, fix: &str| section.invalid("variable", format_args!("'{variable}', {what}"), fix);
        let text = section.environment(variable)?.unwrap_or_default();
        for token in text.split([',', ' ', '\t', '\n', '\r']).filter(|token| !token.is_empty()) {
            let token = Token::new(token);
            given.push(token.map_err(|reason| unusable("whose value cannot be used", &reason.to_string()))?);
        }
        if given.is_empty() {
            let fix = "set that environment variable to one token or to several with commas between them";
            return Err(unusable("which is not set", fix));
        }
    }
    if keys.file.is_none() && given.is_empty() {
        let fix = "name the file with one token a line, or set `variable` to the name of an environment variable";
        return Err(section.invalid("file", "not set", fix));
    }
    Ok(TokenOptions { file: keys.file.clone(), given })
}

fn check_origins(OneOrSeveral(origins): &OneOrSeveral<String>, section: &Section<'_>) -> Result<Origins, ConfigError> {
    if origins.iter().any(|origin| origin == "*") {
        return Ok(Origins::Any);
    }
    let origins: Vec<String> = origins.iter().filter(|origin| !origin.is_empty()).cloned().collect();
    if let Some(bad) = origins.iter().find(|origin| !is_origin(origin)) {
        let fix = "set it to one origin as browsers write it, such as 'https://example.org' without a path, to a list of \
                   them, to '*' for any, or to '' for none";
        return Err(section.invalid("cors_origin", format_args!("'{bad}'"), fix));
    }
    Ok(if origins.is_empty() { Origins::Off } else { Origins::Only(origins) })
}

/// Whether a browser may send `text` as `Origin`.
fn is_origin(text: &str) -> bool {
    text == "null" || url::Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrSeveral<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = OneOrSeveral<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string, or a list of strings")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(text.into_deserializer()).map(|value| OneOrSeveral(vec![value]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(OneOrSeveral(values))
            }
        }

        deserializer.deserialize_any(Values(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, RPC_ONLY, explained, loaded, refused},
    };

    const SECRET: &str = "sEcret-of-20-letters";

    /// How each server listens, in the order SSE, REST, admin, main RPC, speculative RPC.
    fn listens(config: &Config) -> Vec<&ListenOptions> {
        let mut listens = vec![
            &config.sse_server.as_ref().unwrap().event_stream_server.port.listen,
            &config.rest_api_server.as_ref().unwrap().options.listen,
            &config.admin_api_server.as_ref().unwrap().listen,
        ];
        listens.extend(config.rpc_server.as_ref().unwrap().options.servers.iter().map(|server| &server.listen));
        listens
    }

    /// A file with every server, and these lines in the section of each.
    fn with_keys(keys: &str) -> String {
        let rpc = RPC_ONLY.replace("ip_address = '0.0.0.0'\n", "");
        let speculative = format!("{rpc}[rpc_server.speculative_exec_server]\nport = 7778\n{keys}");
        let rpc = speculative.replace("port = 7777", &format!("port = 7777\n{keys}"));
        let stream = DEFAULT_SSE_ONLY.replace("port = 19999", &format!("port = 19999\n{keys}"));
        format!("{stream}\n[rest_api_server]\nport = 1\n{keys}\n[admin_api_server]\nport = 2\n{keys}\n{rpc}")
    }

    #[test]
    fn without_keys_every_server_listens_as_the_reference_does() {
        let config = loaded(&with_keys("ip_address = '0.0.0.0'")).config;
        let any = ListenOptions::default();
        let closed_to_pages = ListenOptions { origins: Origins::Off, ..any.clone() };
        let [off, any] = [&closed_to_pages, &any];
        assert_eq!(listens(&config), [any, any, off, off, off]);
        let without =
            format!("{DEFAULT_SSE_ONLY}\n[rest_api_server]\nport = 1\n[admin_api_server]\nport = 2\n{RPC_ONLY}");
        assert_eq!(listens(&loaded(&without).config), [any, any, off, off]);
    }

    #[test]
    fn every_server_takes_one_or_several_addresses_of_both_families() {
        let addresses = |keys: &str| {
            let config = loaded(&with_keys(keys)).config;
            let mut all = listens(&config).into_iter().map(|listen| listen.addresses.clone());
            let first = all.next().unwrap();
            assert!(all.all(|other| other == first));
            first.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(addresses("ip_address = '127.0.0.1'"), "127.0.0.1");
        assert_eq!(addresses("ip_address = '::'"), "::");
        assert_eq!(addresses("ip_address = ['127.0.0.1', '::1', '10.0.0.7']"), "127.0.0.1 ::1 10.0.0.7");
        for (bad, part) in [
            ("'localhost'", "invalid IP address syntax"),
            ("['127.0.0.1', 'x']", "invalid IP address syntax"),
            ("7", "expected a string, or a list of strings"),
            ("[]", "`sse_server.event_stream_server.ip_address` is an empty list (line "),
            ("['::1', '::1']", "is a list that names an address twice (line "),
        ] {
            let error = refused(&with_keys(&format!("ip_address = {bad}")));
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn every_server_takes_a_list_of_origins() {
        let origins = |value: &str| {
            let config = loaded(&with_keys(&format!("ip_address = '::'\ncors_origin = {value}"))).config;
            let mut all = listens(&config).into_iter().map(|listen| listen.origins.clone());
            let first = all.next().unwrap();
            assert!(all.all(|other| other == first));
            first
        };
        assert_eq!(origins("''"), Origins::Off);
        assert_eq!(origins("[]"), Origins::Off);
        assert_eq!(origins("'*'"), Origins::Any);
        assert_eq!(origins("['https://a.org', '*']"), Origins::Any);
        let two = ["https://example.org", "http://localhost:3000"];
        assert_eq!(origins(&format!("{two:?}")), Origins::Only(two.map(str::to_owned).into()));
        for bad in ["a b", "example.org", "https://example.org/", "https://Example.org", "https://example.org:443"] {
            let error = refused(&DEFAULT_FULL.replace("cors_origin = \"\"", &format!("cors_origin = \"{bad}\"")));
            let words = format!("`admin_api_server.cors_origin` is '{bad}' (line ");
            let other = format!("`rpc_server.main_server.cors_origin` is '{bad}' (line ");
            assert!(error.contains(&words) || error.contains(&other), "{error}");
            assert!(error.contains("such as 'https://example.org' without a path"), "{error}");
        }
    }

    #[test]
    fn every_server_takes_a_certificate_and_tokens() {
        let keys = "ip_address = '::'\ntls = { certificate_file = '/c', key_file = '/k' }\n\
                    bearer_tokens = { file = '/t', variable = 'TOKENS' }";
        let environment = |variable: &str| (variable == "TOKENS").then(|| format!("{SECRET},{SECRET}2 {SECRET}3\n"));
        let loaded = Config::parse(&with_keys(keys), environment).unwrap();
        let given = ["", "2", "3"].map(|end| Token::new(&format!("{SECRET}{end}")).unwrap()).into();
        let tls = Some(TlsFiles { certificates: "/c".into(), key: "/k".into() });
        let tokens = TokenOptions { file: Some("/t".into()), given };
        for listen in listens(&loaded.config) {
            assert_eq!((&listen.tls, &listen.tokens), (&tls, &tokens));
        }
        assert_eq!(loaded.warnings, []);
        assert!(!format!("{loaded:?}").contains(SECRET));
        let off = keys.replace("{ ", "{ enabled = false, ");
        for listen in listens(&self::loaded(&with_keys(&off)).config) {
            assert_eq!((&listen.tls, listen.tokens.are_needed()), (&None, false));
        }
    }

    #[test]
    fn the_variable_with_tokens_may_name_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let text = with_keys("ip_address = '::'\nbearer_tokens = { variable = 'TOKENS' }");
        let parse = || Config::parse(&text, |name| (name == "TOKENS_FILE").then(|| file.to_str().unwrap().to_owned()));
        let error = explained(&parse().unwrap_err());
        assert!(error.contains("failed to read the file with the value of TOKENS: No such file"), "{error}");
        assert!(error.contains("TOKENS_FILE names the file '"), "{error}");
        std::fs::write(&file, format!("{SECRET}\n")).unwrap();
        let loaded = parse().unwrap();
        for listen in listens(&loaded.config) {
            assert_eq!(listen.tokens, TokenOptions { file: None, given: vec![Token::new(SECRET).unwrap()] });
        }
    }

    #[test]
    fn tokens_that_are_not_there_are_refused_so_that_no_server_is_open_by_mistake() {
        let refusal = |value: &str, environment: Option<&str>| {
            let text = with_keys(&format!("ip_address = '::'\nbearer_tokens = {value}"));
            let error = Config::parse(&text, |name| environment.filter(|_| name == "TOKENS").map(str::to_owned));
            explained(&error.unwrap_err())
        };
        let variable = "`sse_server.event_stream_server.bearer_tokens.variable` is 'TOKENS', ";
        for (value, environment, parts) in [
            ("{ variable = 'TOKENS' }", None, [variable, "which is not set (line "]),
            ("{ variable = 'TOKENS' }", Some(" , "), [variable, "which is not set (line "]),
            ("{ variable = 'TOKENS' }", Some("shOrt"), [variable, "whose value cannot be used (line "]),
            ("{}", None, ["`sse_server.event_stream_server.bearer_tokens.file` is not set", "name the file"]),
            ("{ fiel = 'x' }", None, ["unknown field `fiel`", "expected one of `enabled`, `file`, `variable`"]),
            ("'shOrt'", None, ["invalid type: string", "expected struct BearerTokens"]),
        ] {
            let refusal = refusal(value, environment);
            assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
            assert!(environment.is_none() || !refusal.contains("shOrt"), "{refusal}");
        }
    }
}
