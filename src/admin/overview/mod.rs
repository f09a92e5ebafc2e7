//! `sidecar status`: the state of a running Sidecar, on one screen.
//!
//! Asks an admin server for `/ready` and `/status`; the answers flow out as text or as JSON. Answers of
//! other versions are read too; missing members are left out.
//!
//! - `answer`: what is read from `/status`.
//! - `screen`: the text for people.

mod answer;
mod screen;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;
use thiserror::Error;
use url::Url;

use crate::sse_client::stream::{StreamError, body_up_to, http_client, https_client};
use answer::Status;
use screen::Screen;

/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long each of the two answers may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why the admin server could not be queried.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AskError {
    /// The address cannot be understood.
    #[error(
        "`{0}` is not the address of an admin server; give HOST:PORT, or a URL that begins with http:// or https://"
    )]
    Address(String),
    /// There is no token.
    #[error("cannot read a token from {}; name a file that holds the token in one line and that this user may read", file.display())]
    TokenFile {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Client(#[from] StreamError),
    /// There was no answer.
    #[error(
        "{url} does not answer; is Sidecar running with [admin_api_server], and is this its address? See --address"
    )]
    Unreachable {
        /// What was asked.
        url: Url,
        /// Why.
        source: reqwest::Error,
    },
    /// A token is needed, or another one.
    #[error("{0} wants a valid token; name the file that holds it with --token-file")]
    Unauthorized(Url),
    /// The answer is not that of an admin server.
    #[error(
        "{url} gave an answer that is not an admin server's: {reason}; is this the address of Sidecar's admin server?"
    )]
    Unexpected {
        /// What was asked.
        url: Url,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// The answers of an admin server.
#[derive(Debug, Serialize)]
pub struct Overview {
    address: String,
    is_ready: bool,
    /// What `/ready` answered.
    readiness: String,
    /// What `/status` answered.
    status: Box<RawValue>,
    #[serde(skip)]
    read: Status,
}

impl Overview {
    /// Queries the admin server at `address`: `HOST:PORT`, or a URL, for instance of a proxy before it. `token_file` holds the
    /// token that it wants.
    ///
    /// # Errors
    /// Every [`AskError`].
    pub async fn ask(address: &str, token_file: Option<&Path>) -> Result<Overview, AskError> {
        let address = base(address)?;
        let headers = token_file.map(authorization).transpose()?.unwrap_or_default();
        let client = match address.scheme() {
            "https" => https_client(CONNECT_TIME_MAX, HeaderMap::new())?,
            // Plain HTTP needs no certificates, and the system's may be missing.
            _ => http_client(CONNECT_TIME_MAX)?,
        };
        let (ready, readiness) = get(&client, &headers, at(&address, "ready")?).await?;
        let (_, body) = get(&client, &headers, at(&address, "status")?).await?;
        let unexpected =
            |error: serde_json::Error| AskError::Unexpected { url: address.clone(), reason: error.to_string() };
        let status: Box<RawValue> = serde_json::from_str(&body).map_err(unexpected)?;
        let read = serde_json::from_str(&body).map_err(unexpected)?;
        Ok(Overview { is_ready: ready == StatusCode::OK, readiness, status, read, address: address.into() })
    }

    /// Whether Sidecar stores events and answers look-ups.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// One JSON object, with the whole answer of `/status` in it.
    #[must_use]
    pub fn json(&self) -> String {
        // It cannot fail: all of it was JSON before.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The text for people, in colour if `has_colour`.
    #[must_use]
    pub fn text(&self, has_colour: bool) -> String {
        Screen::new(has_colour).show(self)
    }
}

/// The URL before the paths.
fn base(address: &str) -> Result<Url, AskError> {
    let refused = || AskError::Address(address.to_owned());
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let mut url = Url::parse(&with_scheme).map_err(|_| refused())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refused());
    }
    // Behind a proxy the paths may have a prefix.
    let prefix = format!("{}/", url.path().trim_end_matches('/'));
    url.set_path(&prefix);
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn at(base: &Url, path: &str) -> Result<Url, AskError> {
    base.join(path).map_err(|_| AskError::Address(base.to_string()))
}

/// The header with the first token of a file, as the admin server's own file has it.
fn authorization(file: &Path) -> Result<HeaderMap, AskError> {
    let unusable = |source| AskError::TokenFile { file: file.to_owned(), source };
    let text = std::fs::read_to_string(file).map_err(unusable)?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let token = lines.next().ok_or_else(|| unusable(io::Error::other("it holds none")))?;
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| unusable(io::Error::other("it cannot be sent in a header")))?;
    header.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, header)]))
}

/// An answer's status and text. An answer with status 503, that Sidecar is not ready, is one too.
async fn get(client: &reqwest::Client, headers: &HeaderMap, url: Url) -> Result<(StatusCode, String), AskError> {
    let unreachable = |source| AskError::Unreachable { url: url.clone(), source };
    let unexpected = |reason| AskError::Unexpected { url: url.clone(), reason };
    let request = client.get(url.clone()).headers(headers.clone()).timeout(ANSWER_TIME_MAX);
    let response = request.send().await.map_err(|error| unreachable(error.without_url()))?;
    let status = response.status();
    match status {
        StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => {}
        StatusCode::UNAUTHORIZED => return Err(AskError::Unauthorized(url)),
        status => return Err(unexpected(status.to_string())),
    }
    let body = body_up_to(response, ANSWER_BYTES_MAX).await.map_err(|error| unreachable(error.without_url()))?;
    let body = body.ok_or_else(|| unexpected(format!("it is longer than {ANSWER_BYTES_MAX} bytes")))?;
    let text = String::from_utf8(body).map_err(|_| unexpected("it is not text".to_owned()))?;
    Ok((status, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_or_a_url_with_a_prefix() {
        let asked = |address: &str| base(address).and_then(|base| at(&base, "status")).map(String::from);
        for (address, url) in [
            ("127.0.0.1:18887", "http://127.0.0.1:18887/status"),
            ("localhost:1", "http://localhost:1/status"),
            ("[::1]:1", "http://[::1]:1/status"),
            ("http://example.org:18887/", "http://example.org:18887/status"),
            ("https://example.org/sidecar", "https://example.org/sidecar/status"),
            ("https://example.org/sidecar/?a#b", "https://example.org/sidecar/status"),
        ] {
            assert_eq!(asked(address).unwrap(), url);
        }
        for address in ["", "ftp://example.org", "http://", "a b", "file:///etc"] {
            assert!(matches!(base(address), Err(AskError::Address(_))), "{address}");
        }
    }

    #[test]
    fn the_first_token_of_a_file_is_sent_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        std::fs::write(&file, "# mine\n\n  a-token-of-mine-123 \nanother\n").unwrap();
        let headers = authorization(&file).unwrap();
        assert_eq!(headers[AUTHORIZATION], "Bearer a-token-of-mine-123");
        assert!(!format!("{headers:?}").contains("a-token"));
        std::fs::write(&file, "# none\n").unwrap();
        assert!(matches!(authorization(&file), Err(AskError::TokenFile { .. })));
        assert!(matches!(authorization(&folder.path().join("missing")), Err(AskError::TokenFile { .. })));
    }
}
