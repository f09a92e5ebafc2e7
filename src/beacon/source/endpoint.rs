//! Where a consensus client is, and what it is shown to be let in.
//!
//! A hosted node has its key in the URL, as user and password, in the path, or in the query. So nothing of a URL but host
//! and port is ever shown or stored.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use url::Url;
use url::form_urlencoded;

/// The path of the event stream, below the client's own.
const EVENTS: &str = "/eth/v1/events";
/// The user of a URL whose password is a bearer token.
const BEARER: &str = "bearer";

/// A client's address with its secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Without user and password, and without the path of the event stream.
    base: Url,
    name: String,
    authorization: Option<HeaderValue>,
}

/// What a client is shown to be let in.
#[derive(Clone, PartialEq, Eq)]
pub enum Authorization {
    /// User and password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// A token.
    Bearer(String),
}

/// Why a URL is none of a client. None of them shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is not a URL.
    #[error("it is not a URL; set it to one such as 'http://127.0.0.1:5052'")]
    NotAUrl,
    /// It is one of another kind.
    #[error("its scheme is not http or https; set it to a URL such as 'http://127.0.0.1:5052'")]
    Scheme,
    /// It has user and password, and there are keys for them too.
    #[error("it has a user or password, and there are keys for that too; leave one of them out")]
    AuthorizedTwice,
    /// What is shown cannot be in a header.
    #[error("user, password or token have characters that no HTTP header can have; look at them again")]
    Unsendable,
}

impl Endpoint {
    /// Reads a URL. What a client is shown comes from there, or from `authorization`.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn new(url: &str, authorization: Option<Authorization>) -> Result<Endpoint, EndpointError> {
        let mut base = Url::parse(url.trim()).map_err(|_| EndpointError::NotAUrl)?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(EndpointError::Scheme);
        }
        let (Some(host), Some(port)) = (base.host_str(), base.port_or_known_default()) else {
            return Err(EndpointError::NotAUrl);
        };
        let name = format!("{host}:{port}");
        let in_url = Authorization::of(&base);
        if in_url.is_some() && authorization.is_some() {
            return Err(EndpointError::AuthorizedTwice);
        }
        let authorization = authorization.or(in_url).map(|authorization| authorization.header()).transpose()?;
        // A URL with a host takes all of this.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        base.set_fragment(None);
        let path = base.path().trim_end_matches('/');
        let path = path.strip_suffix(EVENTS).unwrap_or(path).to_owned();
        base.set_path(&path);
        Ok(Endpoint { base, name, authorization })
    }

    /// `HOST:PORT`, which is all that is shown of it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The headers of every request.
    pub(super) fn headers(&self) -> HeaderMap {
        self.authorization.iter().map(|value| (AUTHORIZATION, value.clone())).collect()
    }

    /// Whether it speaks HTTPS.
    pub(super) fn is_https(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// The URL of the stream of these topics.
    pub(super) fn events(&self, topics: &[Box<str>]) -> Url {
        let mut url = self.at(EVENTS);
        let topics = topics.iter().map(|topic| encoded(topic)).collect::<Vec<_>>().join(",");
        // Commas as they are: that is how clients of the field ask.
        let query = match url.query().filter(|query| !query.is_empty()) {
            Some(query) => format!("{query}&topics={topics}"),
            None => format!("topics={topics}"),
        };
        url.set_query(Some(&query));
        url
    }

    /// The URL of a path of the beacon API.
    pub(super) fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Endpoint").field(&self.name).finish()
    }
}

impl Authorization {
    /// That of a URL.
    fn of(url: &Url) -> Option<Authorization> {
        let (username, password) = (decoded(url.username()), url.password().map(decoded));
        match (username.as_str(), password) {
            ("", None) => None,
            (BEARER, Some(token)) => Some(Authorization::Bearer(token)),
            (_, password) => Some(Authorization::Basic { username, password: password.unwrap_or_default() }),
        }
    }

    fn header(&self) -> Result<HeaderValue, EndpointError> {
        let text = match self {
            Authorization::Basic { username, password } => {
                format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
            }
            Authorization::Bearer(token) => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| EndpointError::Unsendable)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(a secret)")
    }
}

/// Takes the percent signs out of a part of a URL, where a plus is a plus.
fn decoded(part: &str) -> String {
    let part = part.replace('&', "%26").replace('=', "%3D").replace('+', "%2B");
    form_urlencoded::parse(part.as_bytes()).map(|(name, _)| name.into_owned()).next().unwrap_or_default()
}

fn encoded(part: &str) -> String {
    form_urlencoded::byte_serialize(part.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::new(url, None).unwrap()
    }

    fn authorization(endpoint: &Endpoint) -> Option<String> {
        Some(endpoint.headers().get(AUTHORIZATION)?.to_str().unwrap().to_owned())
    }

    #[test]
    fn topics_and_paths_are_put_below_the_path_and_query_of_the_url() {
        let topics = ["head".into(), "a b".into()];
        for (url, events) in [
            ("http://127.0.0.1:5052", "http://127.0.0.1:5052/eth/v1/events?topics=head,a+b"),
            ("http://node/eth/v1/events", "http://node/eth/v1/events?topics=head,a+b"),
            ("https://node/KEY/?token=x", "https://node/KEY/eth/v1/events?token=x&topics=head,a+b"),
            ("https://node?", "https://node/eth/v1/events?topics=head,a+b"),
        ] {
            assert_eq!(endpoint(url).events(&topics).as_str(), events);
        }
        assert_eq!(endpoint("http://[::1]:5052/k").at("/eth/v1/x").as_str(), "http://[::1]:5052/k/eth/v1/x");
    }

    #[test]
    fn credentials_come_from_the_url_or_from_keys() {
        let basic = endpoint("http://us%20er:p%40ss+@node:1");
        assert_eq!(authorization(&basic).unwrap(), format!("Basic {}", STANDARD.encode("us er:p@ss+")));
        assert_eq!(authorization(&endpoint("https://bearer:TOKEN@node")).unwrap(), "Bearer TOKEN");
        assert_eq!(authorization(&endpoint("http://node")), None);
        let by_key = Endpoint::new("http://node", Some(Authorization::Bearer("T".to_owned()))).unwrap();
        assert_eq!(authorization(&by_key).unwrap(), "Bearer T");
        let twice = Endpoint::new("http://a:b@node", Some(Authorization::Bearer("T".to_owned())));
        assert_eq!(twice, Err(EndpointError::AuthorizedTwice));
        let unsendable = Endpoint::new("http://node", Some(Authorization::Bearer("T\n".to_owned())));
        assert_eq!(unsendable, Err(EndpointError::Unsendable));
    }

    #[test]
    fn nothing_but_host_and_port_is_ever_shown() {
        let secret = endpoint("https://user:SECRET@node.example/SECRET?key=SECRET");
        assert_eq!(secret.name(), "node.example:443");
        assert!(!format!("{secret:?} {:?}", secret.headers()).contains("SECRET"));
        assert!(!format!("{:?}", Authorization::Bearer("SECRET".to_owned())).contains("SECRET"));
        for wrong in ["SECRET", "ftp://SECRET@node", "http://", "http://user:SECRET@"] {
            assert!(!Endpoint::new(wrong, None).unwrap_err().to_string().contains("SECRET"));
        }
    }
}
