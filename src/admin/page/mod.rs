//! The page for people: its files, and the headers that keep it to itself.
//!
//! The files are part of the binary and hold no secret. The page asks only the server that it came from, by relative addresses,
//! so that it works below any prefix of a proxy: `status` as an event stream, and `logs` with what is below it.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::engine::http::{tags, weights};

/// Nothing from elsewhere, nothing inline, no markup made of text; and no other page may frame it.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

/// The headers of each file, in addition to its type and its tag.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // After an upgrade, a page must not run with the script of another version.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Page,
    Style,
    Script,
    Icon,
}

/// Where the files are.
pub(super) const PATHS: [(&str, File); 4] =
    [("/", File::Page), ("/page.css", File::Style), ("/page.js", File::Script), ("/page.svg", File::Icon)];

impl File {
    fn text(self) -> &'static str {
        match self {
            File::Page => include_str!("page.html"),
            File::Style => include_str!("page.css"),
            File::Script => include_str!("page.js"),
            File::Icon => include_str!("page.svg"),
        }
    }

    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            File::Page => "text/html; charset=utf-8",
            File::Style => "text/css; charset=utf-8",
            File::Script => "text/javascript; charset=utf-8",
            File::Icon => "image/svg+xml",
        })
    }
}

/// Whether a client would rather see the page than a line of text: browsers name HTML, scripts do not.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    weights::names(headers, &header::ACCEPT, "text/html")
}

/// Answers with a file, or with its tag alone where the client has it.
pub(super) fn answer(file: File, headers: &HeaderMap) -> Response {
    let tag = tags::tag(file.text().as_bytes());
    let is_known = tags::knows(headers, &tag);
    let mut response = Response::new(if is_known { Body::empty() } else { Body::from(file.text()) });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, file.media_type());
    answer.extend(HEADERS);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        answer.insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again_until_it_changes() {
        for (path, file) in PATHS {
            let first = answer(file, &HeaderMap::new());
            assert_eq!(first.status(), StatusCode::OK, "{path}");
            let tag = first.headers()[header::ETAG].clone();
            for (known, status) in [
                (tag.to_str().unwrap().to_owned(), StatusCode::NOT_MODIFIED),
                (format!("\"other\", W/{}", tag.to_str().unwrap()), StatusCode::NOT_MODIFIED),
                ("*".to_owned(), StatusCode::NOT_MODIFIED),
                ("\"other\"".to_owned(), StatusCode::OK),
            ] {
                let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, known.parse().unwrap())]);
                assert_eq!(answer(file, &headers).status(), status, "{path} {known}");
            }
        }
    }

    #[test]
    fn browsers_get_the_page_and_scripts_a_line() {
        let wants = |accept: &str| is_wanted(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]));
        assert!(wants("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(wants("application/xml, text/html;q=0.5"));
        assert!(!wants("text/html;q=0, */*"));
        assert!(!wants("*/*") && !wants("application/json") && !is_wanted(&HeaderMap::new()));
    }

    /// What a strict policy would refuse in the browser, and what would not work below a proxy's prefix.
    #[test]
    fn the_page_has_nothing_inline_nothing_from_elsewhere_and_only_relative_addresses() {
        let page = File::Page.text();
        for attribute in ["src=\"", "href=\""] {
            for (at, _) in page.match_indices(attribute) {
                let address = page[at + attribute.len()..].split('"').next().unwrap();
                assert!(!address.starts_with('/') && !address.contains(':'), "{address}");
                let is_a_file = PATHS.iter().any(|(path, _)| path[1..] == *address);
                assert!(
                    is_a_file || address.starts_with('#') || matches!(address, "status" | "metrics" | "ready" | "logs"),
                    "{address}"
                );
            }
        }
        assert!(!page.contains("style=") && page.matches("<script").count() == 1);
        for (at, _) in page.match_indices(" on") {
            let handler = page[at + 3..].trim_start_matches(|letter: char| letter.is_ascii_lowercase());
            assert!(!handler.starts_with('='), "{handler:.40}");
        }
        for (_, file) in PATHS {
            let text = file.text().replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("innerHTML"), "{file:?}");
        }
    }
}
