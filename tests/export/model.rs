//! What the tables must hold, by a naive model: every event is read as JSON, and every key is a text in a set.

use std::collections::HashSet;

use serde_json::Value;

/// An event as a node sent it.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) payload: String,
    /// `HOST:PORT`.
    pub(super) source: String,
    pub(super) id: u64,
    pub(super) api_version: String,
    pub(super) network: String,
    /// For a shutdown: the second since 1970 in which it was received.
    pub(super) shutdown_second: Option<i64>,
}

/// The rows so far.
#[derive(Default)]
pub(super) struct Model {
    rows: Vec<String>,
    keys: HashSet<String>,
    pub(super) collisions: usize,
    pub(super) without_table: usize,
}

impl Model {
    /// The rows of one event after another, each as one text.
    pub(super) fn rows(&self) -> &[String] {
        &self.rows
    }

    pub(super) fn apply(&mut self, event: &Event) {
        let Some(Row { event_type, event_key, table_key, content }) = row(event) else {
            self.without_table += 1;
            return;
        };
        let Event { source, id, api_version, network, .. } = event;
        let event_log_key = format!("event_log {source} {id} {event_type} {event_key}");
        if self.keys.contains(&table_key) || self.keys.contains(&event_log_key) {
            self.collisions += 1;
            return;
        }
        self.keys.insert(table_key);
        self.keys.insert(event_log_key);
        self.rows.push(format!("{event_type} http://{source}/ {id} {event_key} {api_version} {network} | {content}"));
    }
}

struct Row {
    event_type: u8,
    event_key: String,
    /// The key of the kind's table.
    table_key: String,
    content: String,
}

fn row(event: &Event) -> Option<Row> {
    let payload: Value = serde_json::from_str(&event.payload).unwrap();
    if payload == "Shutdown" {
        let second = event.shutdown_second.unwrap();
        let address = format!("http://{}/", event.source);
        let time = humantime::format_rfc3339_seconds(
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(second.try_into().unwrap()),
        );
        let time = time.to_string().replace('T', " ").replace('Z', "");
        return Some(Row {
            event_type: 8,
            event_key: format!("{address}-{second}"),
            table_key: format!("Shutdown {address} {second}"),
            content: format!("Shutdown {address} {time} "),
        });
    }
    let (kind, value) = payload.as_object()?.iter().next()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    // What is between the payload's first colon and its last brace.
    let start = event.payload.find(':')? + 1;
    let raw = event.payload[start..event.payload.rfind('}')?].trim();
    Some(match kind.as_str() {
        "BlockAdded" => {
            let hash = text(&value["block_hash"])?;
            let block = value["block"].as_object()?.values().next()?;
            let height = block["header"]["height"].as_u64()?;
            Row {
                event_type: 1,
                event_key: hash.clone(),
                table_key: format!("BlockAdded {height}"),
                content: format!("BlockAdded {height} {hash} {raw}"),
            }
        }
        "TransactionAccepted" => {
            let (form, transaction) = value.as_object()?.iter().next()?;
            let hash = text(&transaction["hash"])?;
            transaction_row(2, kind, form, &hash, &format!("{{\"transaction\":{raw}}}"))
        }
        "TransactionExpired" | "TransactionProcessed" => {
            let (form, hash) = value["transaction_hash"].as_object()?.iter().next()?;
            let event_type = if kind == "TransactionExpired" { 3 } else { 4 };
            transaction_row(event_type, kind, form, &text(hash)?, raw)
        }
        "Fault" => {
            let (era, key) = (value["era_id"].as_u64()?, text(&value["public_key"])?);
            Row {
                event_type: 5,
                event_key: format!("{era} {key}"),
                table_key: format!("Fault {era} {key}"),
                content: format!("Fault {era} {key} {raw}"),
            }
        }
        "FinalitySignature" => {
            let signature = value.as_object()?.values().next()?;
            let (hash, key) = (text(&signature["block_hash"])?, text(&signature["public_key"])?);
            Row {
                event_type: 6,
                event_key: format!("{hash} {key}"),
                table_key: format!("FinalitySignature {hash} {key}"),
                content: format!("FinalitySignature {hash} {key} {raw}"),
            }
        }
        "Step" => {
            let era = value["era_id"].as_u64()?;
            let raw = raw.replace("\"execution_effects\"", "\"execution_effect\"");
            Row {
                event_type: 7,
                event_key: era.to_string(),
                table_key: format!("Step {era}"),
                content: format!("Step {era}  {raw}"),
            }
        }
        _ => return None,
    })
}

fn transaction_row(event_type: u8, table: &str, form: &str, hash: &str, raw: &str) -> Row {
    let number = if form == "Deploy" { 0 } else { 1 };
    let of_type = if table == "TransactionExpired" { String::new() } else { number.to_string() };
    Row {
        event_type,
        event_key: hash.to_owned(),
        table_key: format!("{table} {hash} {of_type}"),
        content: format!("{table} {hash} {number} {raw} | transaction_event {hash} {number} "),
    }
}
