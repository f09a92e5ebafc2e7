//! The little of HTTP/1.1 that the simulated nodes use: what a request asks for, and the heads of their answers.

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The largest request head that is read.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Starts an event stream; pieces follow as chunks.
pub(crate) const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/// Ends a chunked body in an orderly way.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Method and target (path with query) of the request in `head`, once it is complete.
pub(crate) fn request(head: &[u8]) -> Option<(String, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let complete = request.parse(head).expect("the client sends HTTP/1.1").is_complete();
    complete.then(|| (request.method.unwrap().to_owned(), request.path.unwrap().to_owned()))
}

/// The head of the next request, whole; nothing if the client leaves before it is, or sends too much.
pub async fn read_head(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while request(&head).is_none() {
        if head.len() >= HEAD_BYTES_MAX || socket.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// A whole answer that closes the connection.
pub(crate) fn answer(status: u16, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Simulated\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The value of `start_from` in a target's query: nothing without a query, an error for any other query.
pub(crate) fn start_from(target: &str) -> Result<Option<u64>, String> {
    let Some((_, query)) = target.split_once('?') else { return Ok(None) };
    let value = query.strip_prefix("start_from=").and_then(|value| value.parse().ok());
    value.map(Some).ok_or_else(|| "invalid query: expected single field 'start_from=<EVENT ID>'\n".to_owned())
}

/// Appends `bytes` to `to` as one chunk.
pub(crate) fn append_chunk(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    to.extend_from_slice(bytes);
    to.extend_from_slice(b"\r\n");
}
