//! Memory for the bodies of requests, from the first byte until the request is answered.
//!
//! A body that arrives takes its length. Once it is here it takes what it is as values, which may be a hundred times as
//! much: that is estimated from its bytes, never too low.

use std::net::IpAddr;

use super::{Crowded, Pool, Room};

/// What the bodies of one server may take, unless one body alone may need more.
const BODIES_BYTES: usize = 128 << 20;
/// How many times its length a body may take at least.
const TIMES_ITS_LENGTH: usize = 8;
/// Bodies that take no more than this are free.
pub const FREE_BYTES: usize = 16 << 10;

/// Strings of a body are in memory several times: as they came, as values, and as what is sent on.
const COPIES: usize = 4;
/// An element of a list or an object, in a list that has room for twice as many. A name within a string that is a list, too.
const ELEMENT_BYTES: usize = 160;
/// An object, or a message within a message, with its first few members.
const OBJECT_BYTES: usize = 1 << 10;
/// What the system takes for a string beside its bytes.
const STRING_BYTES: usize = 32;

/// Values within each other that JSON is parsed to.
const DEPTH_MAX: usize = 128;

/// What the bodies of a server's requests may take.
#[derive(Debug)]
pub struct BodyMemory(Pool);

/// What one body takes, until it is dropped.
#[derive(Debug, Default)]
pub struct BodyRoom {
    _room: Option<Room>,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As JSON-RPC's JSON, of which nothing is read beyond a depth.
    JsonRpc,
    /// As the JSON of a message. What the message does not know is skipped at any depth.
    Json(Scalars),
    /// As a form, whose names are paths.
    Form(Scalars),
}

/// What the numbers and texts of a body become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalars {
    /// Values.
    Values,
    /// Maybe messages, each of its own, or lists of names.
    Messages,
}

/// Why a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// There is no room now.
    #[error("too many large requests wait; ask again")]
    Crowded,
    /// It would never fit.
    #[error("the body would take {bytes} bytes of memory, and {allowed} are allowed; send fewer values in one request")]
    TooManyValues {
        /// What it would take.
        bytes: usize,
        /// What it may take.
        allowed: usize,
    },
}

impl From<Crowded> for NotTaken {
    fn from(Crowded: Crowded) -> Self {
        NotTaken::Crowded
    }
}

impl BodyMemory {
    /// For bodies of up to `body_bytes_max`.
    #[must_use]
    pub fn new(body_bytes_max: usize) -> Self {
        BodyMemory(Pool::of(BODIES_BYTES.max(body_bytes_max.saturating_mul(TIMES_ITS_LENGTH))))
    }

    /// Waits until a body of `bytes` may arrive.
    ///
    /// # Errors
    /// [`NotTaken::Crowded`].
    pub async fn arriving(&self, client: Option<IpAddr>, bytes: usize) -> Result<BodyRoom, NotTaken> {
        // HTTP reads no more of it than its buffers have.
        self.room(client, bytes, 0).await
    }

    /// Waits until a body that has arrived may be parsed. It keeps what is returned until its request is answered.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub async fn arrived(
        &self,
        client: Option<IpAddr>,
        room: BodyRoom,
        body: &[u8],
        shape: Shape,
    ) -> Result<BodyRoom, NotTaken> {
        let bytes = shape.parsed_bytes(body);
        let allowed = match shape {
            // No call has as many values as would take more, unless it is long.
            Shape::JsonRpc => self.0.part_bytes(client).max(body.len().saturating_mul(TIMES_ITS_LENGTH)),
            Shape::Json(_) | Shape::Form(_) => self.0.units * super::UNIT_BYTES,
        };
        if bytes > allowed {
            return Err(NotTaken::TooManyValues { bytes, allowed });
        }
        // What waits has no room, lest all of it be taken by bodies that wait for more.
        drop(room);
        self.room(client, bytes, body.len()).await
    }

    async fn room(&self, client: Option<IpAddr>, bytes: usize, held: usize) -> Result<BodyRoom, NotTaken> {
        if bytes <= FREE_BYTES {
            return Ok(BodyRoom::default());
        }
        Ok(BodyRoom { _room: Some(self.0.room(client, bytes, held).await?) })
    }
}

impl Shape {
    /// What a body takes at most once it is values.
    fn parsed_bytes(self, body: &[u8]) -> usize {
        let (Values { elements, objects, strings, names }, scalars) = match self {
            Shape::JsonRpc => (Values::of_json(body, DEPTH_MAX), Scalars::Values),
            Shape::Json(scalars) => (Values::of_json(body, usize::MAX), scalars),
            Shape::Form(scalars) => (Values::of_form(body), scalars),
        };
        let values = objects * OBJECT_BYTES + strings * STRING_BYTES;
        let scalars = match scalars {
            Scalars::Values => elements * ELEMENT_BYTES,
            Scalars::Messages => elements * OBJECT_BYTES + names * ELEMENT_BYTES,
        };
        values.saturating_add(scalars).saturating_add(body.len().saturating_mul(COPIES))
    }
}

/// How many values are in a body. Where it is malformed, as many as come before the mistake, or more.
#[derive(Default)]
struct Values {
    elements: usize,
    objects: usize,
    strings: usize,
    /// In strings that are lists of them.
    names: usize,
}

impl Values {
    fn of_json(mut rest: &[u8], depth_max: usize) -> Values {
        let (mut values, mut depth) = (Values::default(), 0_usize);
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'[' | b'{' => {
                    values.elements += 1;
                    values.objects += usize::from(*byte == b'{');
                    depth += 1;
                    // Nothing after this is parsed.
                    if depth > depth_max {
                        break;
                    }
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' => values.elements += 1,
                b'"' => {
                    values.strings += 1;
                    let after = after_string(rest);
                    let string = rest.get(..rest.len() - after.len()).unwrap_or_default();
                    values.names += memchr::memchr_iter(b',', string).count();
                    rest = after;
                }
                _ => {}
            }
        }
        values
    }

    /// A dot or a bracket in a name, maybe escaped, leads into a message within the message.
    fn of_form(body: &[u8]) -> Values {
        let mut values = Values::default();
        for parameter in body.split(|byte| *byte == b'&') {
            let mut halves = parameter.splitn(2, |byte| *byte == b'=');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            values.objects += name.iter().filter(|byte| matches!(byte, b'.' | b'[' | b'%')).count();
            values.names += value.iter().filter(|byte| matches!(byte, b',' | b'%')).count();
            values.elements += 1;
            values.strings += 2;
        }
        values
    }
}

/// What comes after a string whose first quote has been read.
fn after_string(mut rest: &[u8]) -> &[u8] {
    loop {
        let (end, bytes) = match memchr::memchr2(b'"', b'\\', rest) {
            Some(end) if rest.get(end) == Some(&b'\\') => (false, end + 2),
            Some(end) => (true, end + 1),
            None => (true, rest.len()),
        };
        rest = rest.get(bytes..).unwrap_or_default();
        if end {
            return rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn a_body_takes_its_length_while_it_arrives_and_what_its_values_take_until_it_is_answered() {
        let memory = BodyMemory::new(2 * MIB);
        let all = memory.0.left_bytes();
        assert_eq!(all, BODIES_BYTES);
        assert!(memory.arriving(None, FREE_BYTES).await.unwrap()._room.is_none(), "what is small is free");
        let body = format!("[{}]", vec!["1"; 50_000].join(","));
        let room = memory.arriving(None, body.len()).await.unwrap();
        assert_eq!(memory.0.left_bytes(), all - body.len().div_ceil(1024) * 1024);
        let room = memory.arrived(None, room, body.as_bytes(), Shape::Json(Scalars::Values)).await.unwrap();
        let taken = all - memory.0.left_bytes();
        assert!(taken > 50_000 * size_of::<serde_json::Value>(), "{taken}");
        drop(room);
        assert_eq!(memory.0.left_bytes(), all);
    }

    #[tokio::test]
    async fn a_call_like_most_takes_nothing_and_a_program_in_hex_a_few_times_its_length() {
        let call = br#"{"jsonrpc":"2.0","id":1,"method":"chain_get_block","params":[{"Height":1}]}"#;
        assert!(Shape::Json(Scalars::Values).parsed_bytes(call) < FREE_BYTES);
        let program = format!(r#"{{"params":{{"deploy":{{"session":{{"module_bytes":"{}"}}}}}}}}"#, "0a".repeat(MIB));
        let taken = Shape::Json(Scalars::Values).parsed_bytes(program.as_bytes());
        assert!((3 * program.len()..5 * program.len()).contains(&taken), "{taken}");
        let table = format!(r#"{{"text":"\\"{}"}}"#, "{[1,2],\\\"".repeat(MIB));
        assert!(
            Shape::Json(Scalars::Values).parsed_bytes(table.as_bytes()) < 5 * table.len(),
            "what is within a string are no values"
        );
        let deep = "[".repeat(MIB) + &"{\"\":0},".repeat(MIB);
        assert!(Shape::JsonRpc.parsed_bytes(deep.as_bytes()) < 5 * deep.len(), "it is not parsed");
        assert!(
            Shape::Json(Scalars::Values).parsed_bytes(deep.as_bytes()) > MIB * OBJECT_BYTES,
            "it may be skipped, and what follows read"
        );
        let form = format!("text={}&tags=1", "%2e.[,".repeat(MIB));
        assert!(Shape::Form(Scalars::Values).parsed_bytes(form.as_bytes()) < 5 * form.len());
    }

    #[tokio::test]
    async fn a_body_of_more_values_than_could_ever_fit_is_refused() {
        let memory = BodyMemory::new(2 * MIB);
        let values = Scalars::Values;
        for (shape, piece) in [(Shape::Json(values), r#"{"":0},"#), (Shape::Form(values), "a.b=&")] {
            let body = piece.repeat(2 * MIB / piece.len());
            let room = memory.arriving(None, body.len()).await.unwrap();
            let refused = memory.arrived(None, room, body.as_bytes(), shape).await.unwrap_err();
            assert!(matches!(refused, NotTaken::TooManyValues { bytes, .. } if bytes > 2 * BODIES_BYTES), "{refused}");
        }
    }

    #[test]
    fn scalars_that_become_messages_weigh_as_much_as_messages() {
        // What they took when that was measured: see `Scalars`.
        for (shape, body, bytes) in [
            (Shape::Json(Scalars::Messages), format!("[{}0]", "0,".repeat(699_999)), 537 * MIB),
            (Shape::Json(Scalars::Messages), format!("[{}0]", r#"{"":0},"#.repeat(95_700)), 280 * MIB),
            (Shape::Json(Scalars::Messages), format!(r#"{{"mask":"{}a"}}"#, "a,".repeat(2 * MIB)), 297 * MIB),
            (Shape::Form(Scalars::Messages), format!("mask={}a", "a%2C".repeat(MIB)), 148 * MIB),
        ] {
            let estimated = shape.parsed_bytes(body.as_bytes());
            assert!((bytes..2 * bytes).contains(&estimated), "{estimated} for {bytes}");
        }
    }

    #[tokio::test]
    async fn a_call_may_take_the_part_of_one_address_and_a_long_one_several_times_its_length() {
        let remote = Some(IpAddr::from([192, 0, 2, 1]));
        let memory = BodyMemory::new(16 * MIB);
        let taken = async |client, body: String| {
            memory.arrived(client, BodyRoom::default(), body.as_bytes(), Shape::JsonRpc).await.map(drop)
        };
        let values = format!("[{}1]", "1,".repeat(250_000));
        let part = BODIES_BYTES / super::super::CLIENTS_MIN;
        let refused = taken(remote, values.clone()).await.unwrap_err();
        assert!(matches!(refused, NotTaken::TooManyValues { allowed, .. } if allowed == part), "{refused}");
        assert_eq!(taken(None, values).await, Ok(()));
        assert_eq!(taken(remote, format!(r#"{{"module_bytes":"{}"}}"#, "0a".repeat(6 * MIB))).await, Ok(()));
    }

    #[tokio::test]
    async fn bodies_that_have_arrived_do_not_wait_for_each_other() {
        let memory = BodyMemory::new(2 * MIB);
        let body = format!("[{}]", vec!["1"; 500_000].join(","));
        let mut rooms = Vec::new();
        while let Some(room) = memory.arriving(None, body.len()).now_or_never() {
            rooms.push(room.unwrap());
        }
        assert_eq!(rooms.len(), BODIES_BYTES / body.len().next_multiple_of(1024));
        let parsing =
            rooms.into_iter().map(|room| memory.arrived(None, room, body.as_bytes(), Shape::Json(Scalars::Values)));
        let mut parsing: Vec<_> = parsing.map(Box::pin).collect();
        // One gets on as soon as the others wait without room, or are refused.
        let (mut waiting, mut refused, mut parsed) = (0, 0, Vec::new());
        for parsing in &mut parsing {
            match parsing.now_or_never() {
                None => waiting += 1,
                Some(Ok(room)) => parsed.push(room),
                Some(Err(NotTaken::Crowded)) => refused += 1,
                Some(Err(other)) => panic!("{other}"),
            }
        }
        assert!((30..=34).contains(&waiting) && refused > 90, "{waiting} wait, {refused} are refused");
        let first = parsing.first_mut().unwrap().now_or_never().unwrap();
        assert!(first.is_ok() && parsed.is_empty());
    }
}
