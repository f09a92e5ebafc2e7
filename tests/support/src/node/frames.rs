//! The bytes of a node's event stream: frames as a node sends them, and frames as no node should send them.

use bytes::Bytes;

/// The bytes of one event on the stream: `data:` lines, the `id:` line if there is one, an empty line.
pub fn frame(payload: &str, id: Option<u64>) -> Bytes {
    let mut bytes = String::with_capacity(payload.len() + 32);
    for line in payload.split('\n') {
        bytes.push_str("data:");
        bytes.push_str(line);
        bytes.push('\n');
    }
    if let Some(id) = id {
        bytes.push_str(&format!("id:{id}\n"));
    }
    bytes.push('\n');
    bytes.into()
}

/// The bytes of a whole stream: the announcement of `api_version`, then the events with ids from `first_id` on.
pub fn stream(api_version: &str, first_id: u64, payloads: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let mut bytes = api_version_frame(api_version).to_vec();
    for (payload, id) in payloads.into_iter().zip(first_id..) {
        bytes.extend_from_slice(&frame(payload.as_ref(), Some(id)));
    }
    bytes
}

/// The announcement of a version.
pub fn api_version_frame(version: &str) -> Bytes {
    frame(&format!("{{\"ApiVersion\":\"{version}\"}}"), None)
}

/// Frames as no node should send them, for [`push_raw`](super::SimulatedNode::push_raw) and
/// [`send_raw`](super::SimulatedNode::send_raw).
pub mod malformed {
    use bytes::Bytes;

    /// A payload that is JSON but for a byte that no UTF-8 text has.
    pub fn not_utf8(id: u64) -> Bytes {
        let mut bytes = b"data:{\"BlockAdded\":\"\xFF\xFE\"}\n".to_vec();
        bytes.extend_from_slice(format!("id:{id}\n\n").as_bytes());
        bytes.into()
    }

    /// A payload that is not JSON at all.
    pub fn not_json(id: u64) -> Bytes {
        super::frame("this is not JSON", Some(id))
    }

    /// A payload that stops in its middle, in a complete frame.
    pub fn truncated_json(payload: &str, id: u64) -> Bytes {
        let middle = (0..=payload.len() / 2).rev().find(|&at| payload.is_char_boundary(at)).unwrap();
        super::frame(&payload[..middle], Some(id))
    }

    /// A good event with `\r\n` at its line ends: allowed by the standard, sent by no node.
    pub fn carriage_returns(payload: &str, id: u64) -> Bytes {
        format!("data:{payload}\r\nid:{id}\r\n\r\n").into()
    }

    /// A good event without an id.
    pub fn without_id(payload: &str) -> Bytes {
        super::frame(payload, None)
    }

    /// The start of an event, without the empty line that ends it: what follows becomes part of it.
    pub fn without_end(payload: &str, id: u64) -> Bytes {
        format!("data:{payload}\nid:{id}\n").into()
    }
}
