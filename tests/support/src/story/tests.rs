use casper_types::contract_messages::Message;
use casper_types::execution::{Effects, ExecutionResult};
use casper_types::{Block, FinalitySignature, PublicKey, Transaction, TransactionHash};

use super::*;
use crate::recordings;
use serde_json::Value;
use std::collections::HashSet;

fn default_story() -> Story {
    Story::new(7, &StoryOptions { blocks: 40, ..StoryOptions::default() })
}

fn inner(event: &StoryEvent) -> Value {
    let value: Value = serde_json::from_str(&event.payload).unwrap();
    value.as_object().unwrap().values().next().unwrap().clone()
}

#[test]
fn the_same_seed_gives_the_same_story() {
    let options = StoryOptions::small(10);
    assert_eq!(Story::new(3, &options).events(), Story::new(3, &options).events());
    assert_ne!(Story::new(3, &options).events(), Story::new(4, &options).events());
}

#[test]
fn no_event_is_there_twice() {
    let story = default_story();
    let identities: HashSet<&str> = story.events().iter().map(|event| event.identity.as_str()).collect();
    assert_eq!(identities.len(), story.events().len());
}

#[test]
fn the_default_mix_weighs_what_a_busy_network_sends() {
    let story = default_story();
    let count = story.events().len();
    let bytes: usize = story.events().iter().map(|event| event.payload.len()).sum();
    let signatures = story.events().iter().filter(|event| event.kind == EventKind::FinalitySignature).count();
    let (average, share) = (bytes / count, 100 * signatures / count);
    assert!((735..=795).contains(&average), "{average} bytes per event");
    assert!((81..=85).contains(&share), "{share} % finality signatures");
}

#[test]
fn payloads_are_casper_types_values_in_their_own_spelling() {
    for event in Story::new(7, &StoryOptions::small(20)).events() {
        let value = inner(event);
        match event.kind {
            EventKind::BlockAdded => {
                let block: Block = serde_json::from_value(value["block"].clone()).unwrap();
                assert_eq!(serde_json::to_value(block.hash()).unwrap(), value["block_hash"]);
                assert_eq!(Some(block.height()), event.height);
            }
            EventKind::TransactionAccepted => {
                let transaction: Transaction = serde_json::from_value(value.clone()).unwrap();
                assert_eq!(serde_json::to_value(transaction).unwrap(), value);
            }
            EventKind::TransactionProcessed => {
                serde_json::from_value::<ExecutionResult>(value["execution_result"].clone()).unwrap();
                serde_json::from_value::<Vec<Message>>(value["messages"].clone()).unwrap();
            }
            EventKind::FinalitySignature => {
                let FinalitySignature::V2(signature) = serde_json::from_value(value.clone()).unwrap() else {
                    panic!("version 1 is not sent any more");
                };
                assert_eq!(Some(signature.block_height()), event.height);
            }
            EventKind::Step => {
                serde_json::from_value::<Effects>(value["execution_effects"].clone()).unwrap();
            }
            EventKind::TransactionExpired => {
                serde_json::from_value::<TransactionHash>(value["transaction_hash"].clone()).unwrap();
            }
            EventKind::Fault => {
                serde_json::from_value::<PublicKey>(value["public_key"].clone()).unwrap();
            }
            EventKind::Shutdown | EventKind::Unclassified => panic!("not part of a story"),
        }
    }
}

/// Member names in order, down to where content decides about them.
fn shape(value: &Value) -> Vec<String> {
    let Some(object) = value.as_object() else { return Vec::new() };
    let members =
        object.iter().filter(|(name, _)| !["transactions", "effects", "fields", "era_end"].contains(&name.as_str()));
    members
        .flat_map(|(name, inner)| {
            std::iter::once(name.clone()).chain(shape(inner).into_iter().map(move |deeper| format!("{name}.{deeper}")))
        })
        .collect()
}

#[test]
fn members_are_in_the_order_of_a_real_nodes_events() {
    let story = Story::new(7, &StoryOptions::small(200));
    let shapes: HashSet<Vec<String>> =
        story.events().iter().map(|event| shape(&serde_json::from_str(&event.payload).unwrap())).collect();
    for name in [
        "BlockAdded.node_with_transactions",
        "FinalitySignature.node_v2",
        "Step.node_a",
        "Fault.secp256k1",
        "TransactionAccepted.node_version1",
        "TransactionExpired.deploy",
        "TransactionProcessed.node_deploy",
    ] {
        let (_, sample) = recordings::samples().into_iter().find(|(known, _)| known == name).unwrap();
        let sample: Value = serde_json::from_str(&sample).unwrap();
        assert!(shapes.contains(&shape(&sample)), "no event has the shape of {name}: {:?}", shape(&sample));
    }
}

#[test]
fn blocks_rise_one_by_one_and_events_are_around_their_block() {
    let story = default_story();
    let heights: Vec<u64> =
        story.events().iter().filter(|e| e.kind == EventKind::BlockAdded).filter_map(|e| e.height).collect();
    assert_eq!(heights, (0..40).collect::<Vec<u64>>());
    let mut accepted = HashSet::new();
    for event in story.events() {
        match (event.kind, event.identity.split_once(':').unwrap().1) {
            (EventKind::TransactionAccepted, hash) => drop(accepted.insert(hash)),
            (EventKind::TransactionProcessed, hash) => assert!(accepted.contains(hash)),
            _ => {}
        }
    }
}

#[test]
fn a_reordered_story_has_the_same_events_in_another_order() {
    let story = default_story();
    let reordered = story.reordered(5, 50);
    assert_ne!(story.events(), reordered.events());
    let sorted = |story: &Story| {
        let mut identities: Vec<String> = story.events().iter().map(|event| event.identity.clone()).collect();
        identities.sort();
        identities
    };
    assert_eq!(sorted(&story), sorted(&reordered));
    let of_kind = |story: &Story, kind| story.events().iter().filter(|e| e.kind == kind).cloned().collect::<Vec<_>>();
    assert_eq!(of_kind(&story, EventKind::BlockAdded), of_kind(&reordered, EventKind::BlockAdded));
}

#[test]
fn back_fill_goes_down_and_has_no_messages() {
    let story = default_story();
    let back_fill = story.back_fill(10..20);
    let heights: Vec<u64> =
        back_fill.iter().filter(|e| e.kind == EventKind::BlockAdded).filter_map(|e| e.height).collect();
    assert_eq!(heights, (10..20).rev().collect::<Vec<u64>>());
    let with_messages = |event: &&StoryEvent| !inner(event)["messages"].as_array().is_none_or(Vec::is_empty);
    assert!(story.events().iter().any(|event| with_messages(&event)));
    assert!(!back_fill.iter().any(|event| with_messages(&event)));
    assert!(back_fill.iter().all(|e| e.kind != EventKind::TransactionAccepted && e.kind != EventKind::Step));
}

#[test]
fn edge_cases_are_json_of_the_promised_size_and_unlike_each_other() {
    assert_eq!(of_size(3_000_000, 1).payload.len(), 3_000_000);
    let pretty = pretty_printed(&default_story().events()[0]);
    assert!(pretty.payload.contains('\n'));
    for event in [unknown_kind(1), unknown_kind(2), unknown_shape(1), non_ascii(1), of_size(64, 1), pretty, shutdown()]
    {
        serde_json::from_str::<Value>(&event.payload).unwrap();
    }
    assert_ne!(unknown_kind(1).identity, unknown_kind(2).identity);
    assert!(!non_ascii(1).payload.is_ascii());
}
