//! Old spellings, and what became of each.
//!
//! The Casper Sidecar renamed and moved its keys several times. [`CHANGES`] is that history, oldest first, applied to
//! the TOML table before anything else looks at it: everything after this file knows the newest spelling only.

use std::{borrow::Cow, net::SocketAddr};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    document::Document,
    error::{InvalidValue, NotConstructed, TwoSpellings, Warning, line_at},
};

/// What became of an old key.
enum Change {
    /// It stands elsewhere: the full path of its new place.
    Moved(&'static str),
    /// It has another name in the same table.
    Renamed(&'static str),
    /// It and others were merged into one limit, which must satisfy each: the name of that limit in the same table.
    LargestOf(&'static str),
    /// `'IP:PORT'` is now `ip_address` and `port` in the same table.
    Split,
    /// It is accepted and does nothing: the reason.
    Dropped(&'static str),
}
use Change::{Dropped, LargestOf, Moved, Renamed, Split};

const ONE_STREAM: &str = "a node has one stream, and its events are taken in its order";
const ALL_INTERFACES: &str = "the server listens on all interfaces";
const SHARED_LINK: &str = "requests share one connection to the node, each with its own time limit";

/// Each line: the full path of an old key, and what became of it. A path through an array means each of its tables.
const CHANGES: &[(&str, Change)] = &[
    // Until 2022-11: a list inside a section of its own.
    ("connection", Moved("sse_server")),
    ("sse_server.node_connections", Renamed("connections")),
    ("node_connections", Moved("sse_server.connections")),
    // Until 2023-10: everything at top level.
    ("connections", Moved("sse_server.connections")),
    ("event_stream_server", Moved("sse_server.event_stream_server")),
    ("rest_server", Moved("rest_api_server")),
    ("admin_server", Moved("admin_api_server")),
    // 2024-01 only: everything inside `[sse_server]`.
    ("sse_server.storage", Moved("storage")),
    ("sse_server.rest_server", Moved("rest_api_server")),
    ("sse_server.admin_server", Moved("admin_api_server")),
    // Until 2024-05.
    ("storage.storage_path", Renamed("storage_folder")),
    // Until 2022-12.
    ("storage.sqlite_config.max_read_connections", Renamed("max_connections_in_pool")),
    ("storage.sqlite_config.max_write_connections", Dropped("a database has one writer")),
    ("sse_server.event_stream_server.ip_address", Dropped(ALL_INTERFACES)),
    ("rest_api_server.ip_address", Dropped(ALL_INTERFACES)),
    ("sse_server.connections.delay_between_retries_secs", Renamed("delay_between_retries_in_seconds")),
    ("sse_server.connections.enable_event_logging", Renamed("enable_logging")),
    ("sse_server.connections.filter_priority", Dropped(ONE_STREAM)),
    // Until 2023-02.
    ("sse_server.connections.max_retries", Renamed("max_attempts")),
    // 2023-06 only.
    ("sse_server.connections.force_reconnect_in_hours", Dropped("a silent connection is noticed and replaced")),
    // Until 2024-02.
    ("rpc_server.node_client.max_request_size_bytes", LargestOf("max_message_size_bytes")),
    ("rpc_server.node_client.max_response_size_bytes", LargestOf("max_message_size_bytes")),
    // Until 2024-11.
    ("rpc_server.main_server.address", Split),
    ("rpc_server.speculative_exec_server.address", Split),
    ("rpc_server.node_client.address", Split),
    // Until 2025-01.
    ("rpc_server.node_client.request_limit", Dropped(SHARED_LINK)),
    ("rpc_server.node_client.request_buffer_size", Dropped(SHARED_LINK)),
];

/// Replaces every old spelling in `document`; applying it twice changes nothing more.
pub(super) fn modernise(document: &mut Document<'_>) -> Result<Vec<Warning>, NotConstructed> {
    let mut warnings = Vec::new();
    let text = document.text;
    let root = document.root.get_mut();
    for (path, change) in CHANGES {
        let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
        let mut leaving = None;
        for_each_table(root, section, &mut |table| {
            let Some((key, value)) = table.remove_entry(name) else { return Ok(()) };
            let old = Old { path, line: line_at(text, key.span().start), value };
            match change {
                Moved(new_path) => leaving = Some((old, *new_path)),
                Renamed(new_name) => old.insert_into(table, &format!("{section}.{new_name}"))?,
                LargestOf(new_name) => old.merge_into(table, new_name),
                Split => old.split_into(table, section)?,
                Dropped(reason) => {
                    warnings.push(Warning::NoEffect { key: old.path.to_owned(), line: old.line, reason })
                }
            }
            Ok(())
        })?;
        if let Some((old, new_path)) = leaving {
            old.move_below(root, new_path)?;
        }
    }
    Ok(warnings)
}

/// An old key, taken out of the document.
struct Old<'text> {
    path: &'static str,
    line: usize,
    value: Spanned<DeValue<'text>>,
}

impl<'text> Old<'text> {
    /// Puts the value into `table`, which is where `new_path` leads, unless the file has set that too.
    fn insert_into(self, table: &mut DeTable<'text>, new_path: &str) -> Result<(), TwoSpellings> {
        let name = new_path.rsplit_once('.').map_or(new_path, |(_, name)| name);
        if table.contains_key(name) {
            return Err(TwoSpellings { old: self.path.to_owned(), new: new_path.to_owned(), line: self.line });
        }
        table.insert(key(name, &self.value), self.value);
        Ok(())
    }

    /// Puts the value where `new_path` leads from `root`; its section comes into being if need be.
    fn move_below(self, root: &mut DeTable<'text>, new_path: &str) -> Result<(), TwoSpellings> {
        let Some((section, _)) = new_path.split_once('.') else { return self.insert_into(root, new_path) };
        let empty = || Spanned::new(self.value.span(), DeValue::Table(DeTable::new()));
        match root.entry(key(section, &self.value)).or_insert_with(empty).get_mut() {
            DeValue::Table(table) => self.insert_into(table, new_path),
            // `sse_server = 3`: reading the document is about to refuse that with its position.
            _ => Ok(()),
        }
    }

    /// Puts the value into `table` as `name`, unless what is there allows more.
    fn merge_into(self, table: &mut DeTable<'text>, name: &str) {
        let limit = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::Integer(limit) => i64::from_str_radix(limit.as_str(), limit.radix()).ok(),
            _ => None,
        };
        let stays = table.get(name).is_some_and(|other| match (limit(other), limit(&self.value)) {
            (Some(other), Some(own)) => other >= own,
            // What is no number stays, so that reading the document refuses it with its position.
            (other, _) => other.is_none(),
        });
        if !stays {
            table.insert(key(name, &self.value), self.value);
        }
    }

    /// Puts the value `'IP:PORT'` into `table`, the one of `section`, as its two parts.
    fn split_into(self, table: &mut DeTable<'text>, section: &str) -> Result<(), NotConstructed> {
        let Some((ip_address, port)) = split_address(self.value.get_ref()) else {
            let value = self.value.get_ref().as_str().map_or("not a string".to_owned(), |text| format!("'{text}'"));
            let fix = "set `ip_address = 'IP'` and `port = NUMBER` instead".to_owned();
            return Err(InvalidValue { key: self.path.to_owned(), value, line: Some(self.line), fix }.into());
        };
        for (name, part) in [("ip_address", ip_address), ("port", port)] {
            let part = Old { value: Spanned::new(self.value.span(), part), ..self };
            part.insert_into(table, &format!("{section}.{name}"))?;
        }
        Ok(())
    }
}

/// The key `name`, standing where `value` stands.
fn key<'text>(name: &str, value: &Spanned<DeValue<'text>>) -> Spanned<DeString<'text>> {
    Spanned::new(value.span(), Cow::Owned(name.to_owned()))
}

/// Calls `visit` with the table at `path` below `table`, or with each of them where `path` leads through an array.
fn for_each_table<'text>(
    table: &mut DeTable<'text>,
    path: &str,
    visit: &mut dyn FnMut(&mut DeTable<'text>) -> Result<(), NotConstructed>,
) -> Result<(), NotConstructed> {
    if path.is_empty() {
        return visit(table);
    }
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    match table.get_mut(name).map(Spanned::get_mut) {
        Some(DeValue::Table(section)) => for_each_table(section, rest, visit),
        Some(DeValue::Array(sections)) => sections.iter_mut().try_for_each(|section| match section.get_mut() {
            DeValue::Table(section) => for_each_table(section, rest, visit),
            _ => Ok(()),
        }),
        _ => Ok(()),
    }
}

/// `'IP:PORT'` as a string and an integer. `None` if it is not that, or is written with escapes, which no address needs.
fn split_address<'text>(address: &DeValue<'text>) -> Option<(DeValue<'text>, DeValue<'text>)> {
    let DeValue::String(Cow::Borrowed(address)) = *address else { return None };
    let ip_address = address.parse::<SocketAddr>().ok()?.ip().to_string();
    let (_, port) = address.rsplit_once(':')?;
    let port = DeValue::parse(port).ok()?.into_inner();
    Some((DeValue::String(Cow::Owned(ip_address)), port))
}
