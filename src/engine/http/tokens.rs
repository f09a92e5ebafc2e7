//! Bearer tokens: clients that present one are let in.
//!
//! Tokens flow in from a file and from the configuration; only their digests are kept, so that nothing here can show one.
//! Several may be in use at once, so that a new one can be given out before an old one is taken away.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::{Choice, ConstantTimeEq};

use super::access::Client;
use super::cors::{self, Origins};
use super::counters::FrontCounters;
use super::episode::{Episode, Over};
use super::reload::{Current, Reloading, UnusableFile};

/// The shortest token: shorter ones could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// The longest token.
const TOKEN_BYTES_MAX: usize = 1024;
/// Tokens in use at a time; each is compared with what a client presents.
const TOKENS_MAX: usize = 1000;

/// To a client that presents nothing.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"sidecar\"");
/// To a client that presents something else.
const UNKNOWN_TOKEN: HeaderValue = HeaderValue::from_static("Bearer realm=\"sidecar\", error=\"invalid_token\"");

/// A token that clients may present, as a digest: the token itself is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// Keeps the digest of `text`.
    ///
    /// # Errors
    /// When it is too short or too long, or no header can carry it.
    pub fn new(text: &str) -> Result<Token, BadToken> {
        let is_long_enough = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len());
        let is_sendable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_long_enough && is_sendable { Ok(Token::presented(text.as_bytes())) } else { Err(BadToken) }
    }

    fn presented(bytes: &[u8]) -> Token {
        Token(blake3::hash(bytes).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(a token)")
    }
}

/// A text that cannot be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits and signs of ASCII without spaces; \
     `openssl rand -hex 32` makes one"
)]
pub struct BadToken;

/// Which tokens are in use. With none, every client is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenOptions {
    /// A file with one token a line; empty lines and those that begin with `#` do not count. It is read again when it changes.
    pub file: Option<PathBuf>,
    /// Further tokens.
    pub given: Vec<Token>,
}

impl TokenOptions {
    /// Whether clients must present one.
    #[must_use]
    pub fn are_needed(&self) -> bool {
        self.file.is_some() || !self.given.is_empty()
    }

    /// The tokens; `None` where every client is let in.
    pub(super) fn load(&self) -> Result<Option<Reloading<Tokens>>, UnusableFile> {
        if !self.are_needed() {
            return Ok(None);
        }
        let (file, given) = (self.file.clone(), self.given.clone());
        let files: Vec<PathBuf> = file.clone().into_iter().collect();
        let loaded = Reloading::load(files, move |contents| {
            let mut tokens = given.clone();
            if let (Some(file), Some(content)) = (&file, contents.first()) {
                tokens.extend(from_file(file, content)?);
            }
            Ok(Tokens(tokens))
        });
        loaded.map(Some)
    }
}

fn from_file(file: &Path, content: &[u8]) -> Result<Vec<Token>, UnusableFile> {
    let unusable = |reason: String| UnusableFile::new(file, reason);
    let text = std::str::from_utf8(content).map_err(|_| unusable(format!("it is not text; {BadToken}")))?;
    let lines = text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let tokens = lines.map(|(line, number)| {
        Token::new(line).map_err(|reason| unusable(format!("line {number} cannot be a token: {reason}")))
    });
    let tokens: Vec<Token> = tokens.collect::<Result<_, _>>()?;
    match tokens.len() {
        0 => Err(unusable(format!("it holds no token; write one a line: {BadToken}"))),
        1..=TOKENS_MAX => Ok(tokens),
        count => Err(unusable(format!("it holds {count} tokens; leave at most {TOKENS_MAX}"))),
    }
}

/// The tokens in use.
pub(super) struct Tokens(Vec<Token>);

impl Tokens {
    /// Compares with every token, and with all of each: how long it takes tells nothing of them.
    fn have(&self, presented: &Token) -> bool {
        let found = self.0.iter().fold(Choice::from(0), |found, token| found | token.0.ct_eq(&presented.0));
        found.into()
    }
}

/// Lets clients in that present a token.
pub(super) struct Guard {
    pub(super) tokens: Current<Tokens>,
    pub(super) origins: Origins,
    /// Paths that are open to every client.
    pub(super) open_paths: &'static [&'static str],
    /// Of the server, for log lines.
    pub(super) address: SocketAddr,
    pub(super) counters: Arc<FrontCounters>,
    pub(super) refusals: Episode,
}

/// Hands a request on without its token, or refuses it.
pub(super) async fn require_token(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let challenge = match presented(request.headers()) {
        _ if guard.is_open(&request) => None,
        Some(token) if guard.tokens.get().have(&token) => None,
        Some(_) => Some(UNKNOWN_TOKEN),
        None => Some(CHALLENGE),
    };
    match challenge {
        None => {
            // What works on the request must not be able to show or pass it on.
            request.headers_mut().remove(header::AUTHORIZATION);
            next.run(request).await
        }
        Some(challenge) => guard.refuse(&request, challenge),
    }
}

impl Guard {
    fn is_open(&self, request: &Request) -> bool {
        let path = request.uri().path();
        let without_slash = path.strip_suffix('/').unwrap_or(path);
        let is_open_path = |open: &&str| [path, without_slash].contains(open);
        self.open_paths.iter().any(is_open_path) || (self.origins != Origins::Off && is_preflight(request))
    }

    fn refuse(&self, request: &Request, challenge: HeaderValue) -> Response {
        self.counters.unauthorized.add(1);
        let client = Client::of(request.extensions()).map(tracing::field::display);
        let address = self.address;
        self.refusals.note(
            || tracing::info!(%address, client, "requests without a valid token are refused"),
            move |Over { times, seconds }| {
                tracing::info!(%address, refused = times, seconds, "requests without a valid token are not refused any more");
            },
        );
        let body = "a valid token is needed: send it as `Authorization: Bearer TOKEN`\n";
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::WWW_AUTHENTICATE, challenge);
        // A page must be able to see why.
        if let Some(origin) = request.headers().get(header::ORIGIN).filter(|origin| self.origins.let_in(origin)) {
            cors::allow(headers, origin.clone());
        }
        response
    }
}

/// Browsers send no token with a preflight, and it is answered before anything is looked up.
fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The token of a request with one `Authorization: Bearer`.
fn presented(headers: &HeaderMap) -> Option<Token> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| Token::presented(token.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a-secret-of-some-length";

    #[test]
    fn only_a_whole_known_token_is_let_in_however_its_scheme_is_written() {
        let tokens = Tokens([SECRET, "another-secret-of-it"].map(|text| Token::new(text).unwrap()).into());
        let is_let_in = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            presented(&headers).is_some_and(|token| tokens.have(&token))
        };
        for good in
            ["Bearer a-secret-of-some-length", "bearer  another-secret-of-it", "BEARER a-secret-of-some-length "]
        {
            assert!(is_let_in(good), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Basic a-secret-of-some-length",
            "a-secret-of-some-length",
            "Bearer a-secret-of-some-lengt",
            "Bearer a-secret-of-some-length2",
            "Bearer A-secret-of-some-length",
            "Bearera-secret-of-some-length",
            "Bearer a-secret-of-some-length another-secret-of-it",
        ] {
            assert!(!is_let_in(bad), "{bad}");
        }
        let mut twice = HeaderMap::new();
        for _ in 0..2 {
            twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer a-secret-of-some-length"));
        }
        assert!(presented(&twice).is_none());
    }

    #[test]
    fn a_file_holds_one_token_a_line_and_its_mistakes_are_named_without_showing_them() {
        let file = Path::new("/etc/tokens");
        let tokens = from_file(file, format!("# of 2026\n\n {SECRET} \r\nanother-secret-of-it").as_bytes()).unwrap();
        assert_eq!(tokens, [SECRET, "another-secret-of-it"].map(|text| Token::new(text).unwrap()));
        let refusal = |content: &[u8]| from_file(file, content).unwrap_err().to_string();
        for (content, part) in [
            (&b"# nothing\n"[..], "it holds no token"),
            (b"a-secret-of-some-length\nshort-sEcret", "line 2 cannot be a token: a token has 16 to 1024"),
            (b"two words of a long sEcret", "line 1 cannot be a token"),
            (b"\xff\xfe", "it is not text"),
        ] {
            let refusal = refusal(content);
            assert!(refusal.contains(part) && refusal.contains("/etc/tokens"), "{refusal}");
            assert!(!refusal.contains("sEcret"), "{refusal}");
        }
        let many: String = (0..=TOKENS_MAX).map(|number| format!("{SECRET}{number}\n")).collect();
        assert!(refusal(many.as_bytes()).contains("it holds 1001 tokens; leave at most 1000"));
    }

    #[test]
    fn a_token_is_in_no_debug_text() {
        let options = TokenOptions { file: None, given: vec![Token::new(SECRET).unwrap()] };
        assert_eq!(format!("{options:?}"), "TokenOptions { file: None, given: [(a token)] }");
    }
}
