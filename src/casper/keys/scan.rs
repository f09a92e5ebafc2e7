//! The scanner: reads the keys of the most frequent events without parsing the rest of them.
//!
//! A stored payload flows in, which is known to be one JSON value; so members that are not needed are skipped by their
//! quotes and brackets alone. Keys flow out where signatures and transactions are written as nodes write them: without
//! spaces, without escapes in what is wanted, each wanted member once. Everything else is `None` here, and the
//! deserializer decides. So the deserializer decides which keys exist, and the scanner must never find different ones.

use std::borrow::Cow;

use super::account::initiator;
use super::key::{Keys, Stage, TransactionType};
use crate::casper::event::{FINALITY_SIGNATURE, TRANSACTION_ACCEPTED, TRANSACTION_PROCESSED, folded};
use crate::engine::source::Kind;

/// The keys of a signature or a transaction in a node's own spelling.
pub(super) fn scan(kind: Kind, payload: &str) -> Option<Keys<'_>> {
    let mut scanner = Scanner { text: payload, at: 0 };
    let keys = match kind {
        FINALITY_SIGNATURE => scanner.signature(),
        TRANSACTION_ACCEPTED => scanner.accepted(),
        TRANSACTION_PROCESSED => scanner.processed(),
        _ => None,
    }?;
    (scanner.at == payload.len()).then_some(keys)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Its members come in the order in which nodes write them.
    fn signature(&mut self) -> Option<Keys<'a>> {
        self.literal(r#"{"FinalitySignature":{"V2":{"block_hash":"#)?;
        let block_hash = in_lower_case(self.string()?);
        self.literal(r#","block_height":"#)?;
        self.number()?;
        self.literal(r#","era_id":"#)?;
        self.number()?;
        self.literal(r#","chain_name_hash":"#)?;
        self.string()?;
        self.literal(r#","signature":"#)?;
        self.string()?;
        self.literal(r#","public_key":"#)?;
        let public_key = in_lower_case(self.string()?);
        self.literal("}}}")?;
        Some(Keys::Signature { block_hash, public_key })
    }

    fn accepted(&mut self) -> Option<Keys<'a>> {
        self.literal(r#"{"TransactionAccepted":{"#)?;
        let transaction_type = self.transaction_type()?;
        let (mut hash, mut origin) = (None, None);
        self.members(|scanner, name| match name {
            "hash" => once(&mut hash, scanner.string()?),
            // One of the two: no node writes both.
            "header" | "payload" => once(&mut origin, scanner.origin()?),
            _ => scanner.pass_value(),
        })?;
        self.literal("}}")?;
        let initiator = origin.flatten().and_then(initiator);
        Some(Keys::Transaction { stage: Stage::Accepted, transaction_type, hash: in_lower_case(hash?), initiator })
    }

    /// Who a transaction is from, as it is written.
    fn origin(&mut self) -> Option<Option<&'a str>> {
        let (mut time, mut account) = (None, None);
        self.members(|scanner, name| match name {
            "timestamp" => once(&mut time, scanner.time()?),
            "initiator_addr" | "account" => once(&mut account, scanner.value()?),
            _ => scanner.pass_value(),
        })?;
        time.map(|()| account)
    }

    fn processed(&mut self) -> Option<Keys<'a>> {
        let (mut hash, mut time, mut account, mut messages) = (None, None, None, None);
        self.literal(r#"{"TransactionProcessed":"#)?;
        self.members(|scanner, name| match name {
            "transaction_hash" => once(&mut hash, scanner.transaction_hash()?),
            "timestamp" => once(&mut time, scanner.time()?),
            "initiator_addr" => once(&mut account, scanner.value()?),
            "messages" => once(&mut messages, scanner.value()?),
            _ => scanner.pass_value(),
        })?;
        self.literal("}")?;
        if messages.is_some_and(|messages| !messages.starts_with('[')) {
            return None;
        }
        let (transaction_type, hash) = hash?;
        let initiator = account.and_then(initiator);
        Some(Keys::Transaction { stage: Stage::Processed, transaction_type, hash: in_lower_case(hash), initiator })
    }

    fn transaction_hash(&mut self) -> Option<(TransactionType, &'a str)> {
        self.literal("{")?;
        let hash = (self.transaction_type()?, self.string()?);
        self.literal("}")?;
        Some(hash)
    }

    /// The name of a member that says which form a transaction has, and its colon.
    fn transaction_type(&mut self) -> Option<TransactionType> {
        let transaction_type = match self.string()? {
            "Deploy" => TransactionType::Deploy,
            "Version1" => TransactionType::Version1,
            _ => return None,
        };
        self.literal(":")?;
        Some(transaction_type)
    }

    /// A time as nodes write it, which surely is one.
    fn time(&mut self) -> Option<()> {
        let [year @ .., b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'.', f1, f2, f3, b'Z'] =
            self.string()?.as_bytes()
        else {
            return None;
        };
        let of_two = |tens: &u8, ones: &u8| [*tens, *ones];
        let is_time = year.len() == 4
            && year.iter().chain([d1, d2, m1, m2, h1, h2, n1, n2, s1, s2, f1, f2, f3]).all(u8::is_ascii_digit)
            && (*b"1970"..=*b"2199").contains(year.first_chunk()?)
            && (*b"01"..=*b"12").contains(&of_two(m1, m2))
            && (*b"01"..=*b"28").contains(&of_two(d1, d2))
            && of_two(h1, h2) <= *b"23"
            && of_two(n1, n2) <= *b"59"
            && of_two(s1, s2) <= *b"59";
        is_time.then_some(())
    }

    /// Reads an object; `take` takes the value of each member.
    fn members(&mut self, mut take: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.literal("{")?;
        loop {
            let name = self.string()?;
            self.literal(":")?;
            take(self, name)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn literal(&mut self, expected: &str) -> Option<()> {
        let is_there = self.rest().starts_with(expected.as_bytes());
        self.at += expected.len();
        is_there.then_some(())
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.literal("\"")?;
        let start = self.at;
        let length = memchr::memchr2(b'"', b'\\', self.rest())?;
        self.at += length;
        (self.next()? == b'"').then(|| self.text.get(start..start + length))?
    }

    /// A number of 64 bits.
    fn number(&mut self) -> Option<u64> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let start = self.at;
        self.at += digits;
        self.text.get(start..self.at)?.parse().ok()
    }

    /// Any value, as it is written.
    fn value(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.pass_value()?;
        self.text.get(start..self.at)
    }

    /// Passes over any value.
    fn pass_value(&mut self) -> Option<()> {
        let (mut rest, mut depth) = (self.rest(), 0_u32);
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            match byte {
                b'"' => rest = after_string(rest)?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.checked_sub(1)?,
                _ if depth > 0 => continue,
                _ => rest = rest.get(rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']'))?..)?,
            }
            if depth == 0 {
                self.at = self.text.len() - rest.len();
                return Some(());
            }
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.text.as_bytes().get(self.at)?;
        self.at += 1;
        Some(*byte)
    }
}

/// What is after a string, whose first quote is read.
fn after_string(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (byte, after) = rest.get(memchr::memchr2(b'"', b'\\', rest)?..)?.split_first()?;
        if *byte == b'"' {
            return Some(after);
        }
        rest = after.get(1..)?;
    }
}

/// Fills a member's place; a second one of that name is not for the scanner.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// The same as [`folded`], which is asked only where a letter is in upper case.
fn in_lower_case(text: &str) -> Cow<'_, str> {
    // Without an early end, so that many bytes are looked at in one step.
    let has_upper_case = text.bytes().fold(false, |found, byte| found | byte.is_ascii_uppercase());
    if has_upper_case { folded(text) } else { Cow::Borrowed(text) }
}
