//! What the sidecar stores and serves itself: the event stream, the REST answers, and the bridge's answers without the node.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sidecar_test_support::client::{Request, get};

use crate::methods::same;
use crate::network::{CHAIN, PATIENCE};
use crate::sending::Sent;
use crate::{Run, case};

/// Compares the whole event stream with the node's, byte for byte, and again after the sidecar was killed.
pub(crate) async fn check_streams(run: &mut Run) -> Result<()> {
    let subject = "event stream";
    case!(run, subject, "replayed", { is_as_the_node_sends_it(run).await? });
    run.sidecar.kill9();
    run.network.events.wait_for_more(10).await?;
    run.sidecar.restart().await;
    case!(run, subject, "after kill -9 of the sidecar", { is_as_the_node_sends_it(run).await? });
    case!(run, subject, "live", {
        let last = run.network.events.all().len() as u64;
        let target = format!("/events?start_from={last}");
        let open = async |address| Request::get(address, &target).patience(PATIENCE).open().await;
        let (mut node, mut sidecar) = (open(run.network.sse()).await, open(run.sidecar.sse_address()).await);
        // Whichever stream began later may lack what was announced in between.
        let messages = node.read_messages(1 + 6).await;
        let first = messages[1].id;
        let got = sidecar.read_until_id(messages[6].id.context("an event has an id")?).await;
        let got: Vec<_> = got.into_iter().filter(|message| message.id >= first).collect();
        ensure!(got == messages[1..], "{got:?} instead of {messages:?}");
    });
    Ok(())
}

async fn is_as_the_node_sends_it(run: &Run) -> Result<()> {
    let last = run.network.events.all().len() - 1;
    let from_node = bytes_up_to(run.network.sse(), last).await?;
    let from_sidecar = bytes_up_to(run.sidecar.sse_address(), last).await?;
    let common = from_node.bytes().zip(from_sidecar.bytes()).take_while(|(node, sidecar)| node == sidecar).count();
    let shown = |text: &str| text.get(common.saturating_sub(100)..).map(|text| format!("{text:.300}"));
    ensure!(
        from_node == from_sidecar,
        "they differ at byte {common}; the node: {:?}; the sidecar: {:?}",
        shown(&from_node),
        shown(&from_sidecar)
    );
    eprintln!("{} events and {} bytes are the same", last + 1, from_node.len());
    Ok(())
}

/// The bytes of a stream from its first event up to the one of this id, without keep-alive comments.
async fn bytes_up_to(address: SocketAddr, id: usize) -> Result<String> {
    let end = format!("\nid:{id}\n\n");
    let is_whole = |bytes: &[u8]| bytes.windows(end.len()).any(|window| window == end.as_bytes());
    let mut stream = Request::get(address, "/events?start_from=0").patience(PATIENCE).open().await;
    let text = String::from_utf8(stream.body_until(is_whole).await)?;
    let (text, _) = text.split_once(&end).context("the stream ended before")?;
    Ok(text.replace(":\n\n", "") + &end)
}

/// Compares the REST server's answers with the node's events, byte for byte.
pub(crate) async fn check_rest(run: &mut Run, sent: &Sent) -> Result<()> {
    let block = sent.transfer.event["block_hash"].as_str().context("a hash is a text")?.to_owned();
    let (transaction, deploy) = (sent.contract_call.digest(), sent.call_deploy.digest());
    for (target, kind, part) in [
        (format!("/block/{block}"), "BlockAdded", block.as_str()),
        (format!("/transaction/accepted/version1/{transaction}"), "TransactionAccepted", transaction),
        (format!("/transaction/processed/version1/{transaction}"), "TransactionProcessed", transaction),
        (format!("/transaction/accepted/deploy/{deploy}"), "TransactionAccepted", deploy),
        (format!("/transaction/processed/deploy/{deploy}"), "TransactionProcessed", deploy),
        (format!("/signatures/{block}"), "FinalitySignature", block.as_str()),
        ("/step/1".to_owned(), "Step", "{\"Step\":{\"era_id\":1,"),
    ] {
        case!(run, "REST", &target, {
            let events = run.network.events.all();
            let begin = format!("{{\"{kind}\":");
            let event = events.iter().find(|event| event.payload.starts_with(&begin) && event.payload.contains(part));
            let event = &event.context("the node announced it")?.payload;
            let payload = &event[begin.len()..event.len() - 1];
            let payload = match kind {
                "TransactionAccepted" => format!("{{\"transaction\":{payload}}}"),
                "Step" => payload.replacen("\"execution_effects\"", "\"execution_effect\"", 1),
                _ => payload.to_owned(),
            };
            let header = format!("{{\"api_version\":\"2.0.0\",\"network_name\":\"{CHAIN}\"}}");
            let envelope = format!("{{\"header\":{header},\"payload\":{payload}}}");
            let wanted = if kind == "FinalitySignature" { format!("[{envelope}]") } else { envelope };
            let answer = get(run.sidecar.rest_address(), &target).await;
            ensure!(answer.status == 200, "status {}", answer.status);
            ensure!(answer.body == wanted, "{:.400} instead of {wanted:.400}", answer.body);
        });
    }
    case!(run, "REST", "/block and a transaction's whole life", {
        let newest = get(run.sidecar.rest_address(), "/block").await.json();
        run.network.events.block(&newest["payload"]["block_hash"])?;
        let life = get(run.sidecar.rest_address(), &format!("/transaction/version1/{transaction}")).await.json();
        same("expired", &life["transaction_expired"], &json!(false))?;
        same("processed", &life["transaction_processed"]["payload"], &sent.contract_call.event)?;
        let nobody = get(run.sidecar.rest_address(), "/faults/1").await;
        ensure!(nobody.status == 404, "status {}", nobody.status);
    });
    Ok(())
}

/// Ends the node; what the log has is still answered, and nothing else is.
pub(crate) async fn check_without_node(run: &mut Run, sent: &Sent) -> Result<()> {
    let switch_block = run.network.events.find(|event| {
        let added = event.get("BlockAdded")?;
        (!added["block"]["Version2"]["header"]["era_end"].is_null()).then(|| added.clone())
    });
    let switch_block = switch_block.context("an era has ended")?["block_hash"].clone();
    let hash = sent.transfer.event["block_hash"].clone();
    // What each answers while the node is there.
    let calls = [
        ("chain_get_block", json!([{"Hash": hash}])),
        ("chain_get_block_transfers", json!([{"Hash": hash}])),
        ("chain_get_state_root_hash", json!([{"Hash": hash}])),
        ("info_get_transaction", json!([sent.contract_call.hash])),
        ("info_get_deploy", json!([sent.call_deploy.digest()])),
        ("chain_get_era_info_by_switch_block", json!([{"Hash": hash}])),
    ];
    let mut before = Vec::new();
    for (method, params) in &calls {
        before.push(run.rpc.result(method, params.clone()).await?);
    }
    run.network.kill();
    let subject = "answers without the node";
    for ((method, params), before) in calls.into_iter().zip(before) {
        case!(run, subject, method, {
            let answer = run.rpc.answer(method, params).await?;
            ensure!(answer.is_from_log, "not from the log: {:.300}", answer.json.to_string());
            same("result", &answer.json["result"], &before)?;
        });
    }
    case!(run, subject, "what the log does not have", {
        for (method, params) in [
            ("chain_get_era_summary", json!([{"Hash": switch_block}])),
            ("info_get_peers", Value::Null),
            ("state_get_auction_info", Value::Null),
        ] {
            let (code, data) = run.rpc.error(method, params).await?;
            let is_lost = data.as_str().is_some_and(|text| text.ends_with("connection to node lost"));
            ensure!(code == -32018 && is_lost, "{method}: {code}, {data}");
        }
    });
    case!(run, subject, "the other servers", {
        let last = run.network.events.all().len() - 1;
        let target = format!("/events?start_from=0&until={last}");
        let replayed = Request::get(run.sidecar.sse_address(), &target).open().await.read_to_end().await;
        let replayed: Vec<_> = replayed.into_iter().filter(|message| message.id.is_some()).collect();
        let events = run.network.events.all();
        ensure!(replayed.iter().map(|message| &message.data).eq(events.iter().map(|event| &event.payload)));
        ensure!(get(run.sidecar.admin_address(), "/health").await.status == 200);
        let code = run.sidecar.terminate().code();
        ensure!(code == Some(0), "after SIGTERM the status is {code:?}");
    });
    Ok(())
}
