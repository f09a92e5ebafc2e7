//! The body of a LOSS mark: which events are gone, why, and how the chain continues after them.

use std::ops::Range;

use serde::Serialize;

use crate::{
    ChainValue, Sequence,
    bytes_codec::{hex, parse_hex},
};

/// What a LOSS mark says of how the chain continues after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainAfterLoss {
    /// The next event's chain value follows on the last one before the loss.
    Unchanged,
    /// It follows on this value, which the lost block's header had.
    Value(ChainValue),
    /// It is unknown: the next block's value is taken as it is.
    Unknown,
}

/// The body as it is stored.
#[derive(Serialize)]
struct Body<'a> {
    from: Sequence,
    /// The last one lost; none when only marks were.
    to: Option<Sequence>,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Option<String>>,
}

/// The body of a LOSS mark.
pub(crate) fn loss_body(lost: &Range<Sequence>, reason: &str, chain: ChainAfterLoss) -> String {
    let chain = match chain {
        ChainAfterLoss::Unchanged => None,
        ChainAfterLoss::Value(chain) => Some(Some(hex(&chain))),
        ChainAfterLoss::Unknown => Some(None),
    };
    let to = lost.end.checked_sub(1).filter(|_| !lost.is_empty());
    // Numbers and strings always serialize.
    serde_json::to_string(&Body { from: lost.start, to, reason, chain }).unwrap_or_default()
}

/// Reads the body of a LOSS mark.
pub(crate) fn parse_loss(body: &str) -> Option<(Range<Sequence>, String, ChainAfterLoss)> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let from = body.get("from")?.as_u64()?;
    let lost = match body.get("to")? {
        serde_json::Value::Null => from..from,
        to => from..to.as_u64()?.checked_add(1)?,
    };
    let reason = body.get("reason").and_then(|reason| reason.as_str()).unwrap_or_default().to_owned();
    let chain = match body.get("chain") {
        None => ChainAfterLoss::Unchanged,
        Some(value) => value.as_str().and_then(parse_hex).map_or(ChainAfterLoss::Unknown, ChainAfterLoss::Value),
    };
    Some((lost, reason, chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_mark_tells_how_the_chain_goes_on() {
        let value: ChainValue = std::array::from_fn(|place| place as u8 * 7);
        let told = |body: &str| parse_loss(body);
        assert_eq!(
            told(&loss_body(&(3..5), "it \"broke\"", ChainAfterLoss::Value(value))),
            Some((3..5, "it \"broke\"".to_owned(), ChainAfterLoss::Value(value)))
        );
        assert_eq!(
            told(&loss_body(&(3..5), "x", ChainAfterLoss::Unknown)).map(|told| told.2),
            Some(ChainAfterLoss::Unknown)
        );
        assert_eq!(told(&loss_body(&(0..0), "x", ChainAfterLoss::Unknown)).map(|told| told.0), Some(0..0));
        // What recovery writes.
        let body = loss_body(&(3..5), "x", ChainAfterLoss::Unchanged);
        assert_eq!(body, r#"{"from":3,"to":4,"reason":"x"}"#);
        assert_eq!(told(&body), Some((3..5, "x".to_owned(), ChainAfterLoss::Unchanged)));
    }

    #[test]
    fn a_body_that_is_no_loss_tells_nothing() {
        for body in ["", "{}", "[1]", r#"{"from":-1,"to":5}"#, r#"{"from":"1","to":5}"#] {
            assert_eq!(parse_loss(body), None, "{body}");
        }
        let odd = format!(r#"{{"from":1,"to":2,"chain":"{}é"}}"#, "0".repeat(62));
        assert_eq!(parse_loss(&odd).map(|told| told.2), Some(ChainAfterLoss::Unknown));
    }
}
