//! Events of blocks, heads and checkpoints that no connection received, made from what a client still knows.
//!
//! The chain is walked back from its head, parent by parent, to the newest block that was reported before. What comes of it
//! says the same as the client's own events did, so one that another client brings later is known already.

use super::rest::{Header, Network, RestApi, RestError};

/// Blocks that are looked at for one gap.
const BLOCKS_MAX: usize = 1024;

/// An event that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) topic: &'static str,
    pub(super) payload: String,
}

const HEAD: &str = "head";
const BLOCK: &str = "block";
const FINALIZED: &str = "finalized_checkpoint";

/// Whether any of these topics can be filled.
pub(super) fn is_of_use(topics: &[Box<str>]) -> bool {
    [HEAD, BLOCK, FINALIZED].iter().any(|known| topics.iter().any(|topic| **topic == **known))
}

/// What can be made of the events of `topics` after the block of `newest_slot`, in the order in which they would have come.
/// What the client does not tell is left out.
///
/// # Errors
/// When the client does not even tell its head.
pub(super) async fn missed(
    api: &RestApi<'_>,
    network: &Network,
    topics: &[Box<str>],
    newest_slot: u64,
) -> Result<Vec<Made>, RestError> {
    let wants = |name: &str| topics.iter().any(|topic| **topic == *name);
    let mut made = Vec::new();
    if wants(HEAD) || wants(BLOCK) {
        let chain = walk(api, network, newest_slot, wants(HEAD)).await?;
        for (place, header) in chain.iter().enumerate().rev().filter(|(_, header)| header.slot > newest_slot) {
            if wants(BLOCK) {
                made.push(Made { topic: BLOCK, payload: block(header) });
            }
            let before = chain.get(place + 1..).unwrap_or_default();
            if let Some(payload) = head(header, before, network.slots_per_epoch).filter(|_| wants(HEAD)) {
                made.push(Made { topic: HEAD, payload });
            }
        }
    }
    if wants(FINALIZED)
        && let Ok(Some((checkpoint, execution_optimistic))) = api.finalized().await
        && let Ok(Some(header)) = api.header(&checkpoint.root).await
    {
        let (block, state, epoch) = (&checkpoint.root, &header.state_root, checkpoint.epoch);
        let payload = format!(
            r#"{{"block":"{block}","state":"{state}","epoch":"{epoch}","execution_optimistic":{execution_optimistic}}}"#
        );
        made.push(Made { topic: FINALIZED, payload });
    }
    Ok(made)
}

/// The chain from its head down, as far as it is needed and told.
async fn walk(
    api: &RestApi<'_>,
    network: &Network,
    newest_slot: u64,
    for_heads: bool,
) -> Result<Vec<Header>, RestError> {
    let Some(head) = api.head().await?.filter(|head| head.slot > newest_slot) else { return Ok(Vec::new()) };
    let mut chain = vec![head];
    // The first head to make depends on a block before the epoch before its own.
    let epoch_before = (newest_slot.saturating_add(1) / network.slots_per_epoch).saturating_sub(1);
    let needed = epoch_before.saturating_mul(network.slots_per_epoch);
    while chain.len() < BLOCKS_MAX
        && let Some(Header { slot, parent_root, .. }) = chain.last()
    {
        if *slot == 0 || *slot <= newest_slot && (!for_heads || *slot < needed) {
            break;
        }
        match api.header(parent_root).await {
            Ok(Some(parent)) if parent.slot < *slot => chain.push(parent),
            _ => break,
        }
    }
    Ok(chain)
}

fn block(header: &Header) -> String {
    let Header { slot, root, execution_optimistic, .. } = header;
    format!(r#"{{"slot":"{slot}","block":"{root}","execution_optimistic":{execution_optimistic}}}"#)
}

/// The head that `header` was; `before` are the blocks before it, the newest first. `None` where they do not reach back to
/// those that its duties depend on.
fn head(header: &Header, before: &[Header], slots_per_epoch: u64) -> Option<String> {
    let Header { slot, root, state_root, execution_optimistic, .. } = header;
    let epoch = slot / slots_per_epoch;
    let root_before = |first_slot: u64| {
        let found = before.iter().find(|header| header.slot < first_slot);
        // The first block of all counts as its own predecessor.
        found.or_else(|| before.last().filter(|header| header.slot == 0)).map(|header| header.root.as_str())
    };
    let current = root_before(epoch * slots_per_epoch)?;
    let previous = root_before(epoch.saturating_sub(1) * slots_per_epoch)?;
    let epoch_transition = before.first().is_some_and(|parent| parent.slot / slots_per_epoch < epoch);
    Some(format!(
        r#"{{"slot":"{slot}","block":"{root}","state":"{state_root}","epoch_transition":{epoch_transition},"previous_duty_dependent_root":"{previous}","current_duty_dependent_root":"{current}","execution_optimistic":{execution_optimistic}}}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(slot: u64) -> Header {
        Header {
            slot,
            root: format!("0x{slot:04x}"),
            parent_root: String::new(),
            state_root: format!("0xf{slot:03x}"),
            execution_optimistic: false,
        }
    }

    #[test]
    fn a_head_names_the_last_blocks_before_its_epoch_and_the_epoch_before() {
        // Slot 64 is empty, and so is 31.
        let before: Vec<Header> = [66, 65, 63, 62, 33, 32, 30, 29].map(header).into();
        let payload = head(&header(67), &before, 32).unwrap();
        let expected = r#"{"slot":"67","block":"0x0043","state":"0xf043","epoch_transition":false,"previous_duty_dependent_root":"0x001e","current_duty_dependent_root":"0x003f","execution_optimistic":false}"#;
        assert_eq!(payload, expected);
        assert!(head(&header(65), &before[2..], 32).unwrap().contains(r#""epoch_transition":true"#));
        assert_eq!(head(&header(67), &before[..4], 32), None, "the block before the epoch before is not known");
        let early = head(&header(3), &[header(1), header(0)], 32).unwrap();
        assert!(early.contains(r#""previous_duty_dependent_root":"0x0000","current_duty_dependent_root":"0x0000""#));
    }
}
