//! Old spellings, and what became of each.
//!
//! The Casper Sidecar renamed and moved its keys several times. [`CHANGES`] is that history, first of the sections and
//! then of the keys in them. It is applied to the TOML table before anything else looks at it: everything after this
//! file knows the newest spelling only.

use std::{borrow::Cow, net::SocketAddr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    document::{Document, Respelled, for_each_table, key_at},
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
    /// The number of further attempts after a first one became the number of attempts: its name in the same table.
    Retries(&'static str),
    /// `'IP:PORT'` is now `ip_address` and `port` in the same table.
    Split,
    /// It is accepted and does nothing: the reason.
    Dropped(&'static str),
}
use Change::{Dropped, LargestOf, Moved, Renamed, Retries, Split};

impl Change {
    /// What to write instead of the old key `path`.
    fn new_spelling(&self, path: &str) -> Option<String> {
        let beside = |name: &str| path.rsplit_once('.').map_or(name.to_owned(), |(table, _)| format!("{table}.{name}"));
        match self {
            Moved(new_path) => Some((*new_path).to_owned()),
            Renamed(name) | LargestOf(name) | Retries(name) => Some(beside(name)),
            Split => Some(format!("{}` and `{}", beside("ip_address"), beside("port"))),
            Dropped(_) => None,
        }
    }
}

const ONE_STREAM: &str = "a node has one stream, and its events are taken in its order";
const ONE_CONNECTION: &str = "the export has one connection";

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
    // Until 2022-12.
    ("storage.sqlite_config.max_read_connections", Dropped(ONE_CONNECTION)),
    ("storage.sqlite_config.max_write_connections", Dropped(ONE_CONNECTION)),
    ("sse_server.connections.delay_between_retries_secs", Renamed("delay_between_retries_in_seconds")),
    ("sse_server.connections.enable_event_logging", Renamed("enable_logging")),
    ("sse_server.connections.filter_priority", Dropped(ONE_STREAM)),
    // Until 2023-02.
    ("sse_server.connections.max_retries", Retries("max_attempts")),
    // 2023-06 only.
    ("sse_server.connections.force_reconnect_in_hours", Dropped("a silent connection is noticed and replaced")),
    // Until 2024-02.
    ("rpc_server.node_client.max_request_size_bytes", LargestOf("max_message_size_bytes")),
    ("rpc_server.node_client.max_response_size_bytes", LargestOf("max_message_size_bytes")),
    // Until 2024-05.
    ("storage.storage_path", Renamed("storage_folder")),
    // Until 2024-11.
    ("rpc_server.main_server.address", Split),
    ("rpc_server.speculative_exec_server.address", Split),
    ("rpc_server.node_client.address", Split),
];

/// Replaces every old spelling in `document`; applying it twice changes nothing more.
pub(super) fn modernise(document: &mut Document<'_>) -> Result<Vec<Warning>, NotConstructed> {
    let mut warnings = Vec::new();
    let text = document.text;
    let root = document.root.get_mut();
    let respelled = &mut document.respelled;
    for (path, change) in CHANGES {
        let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
        let mut leaving = None;
        for_each_table(root, section, &mut |table| {
            let Some((key, value)) = table.remove_entry(name) else { return Ok(()) };
            let old = Old { path, line: line_at(text, key.span().start), value };
            respelled.extend(change.new_spelling(path).map(|new| Respelled { old: path, line: old.line, new }));
            match change {
                Moved(new_path) => leaving = Some((old, *new_path)),
                Renamed(new_name) => old.insert_into(table, &format!("{section}.{new_name}"))?,
                Retries(new_name) => old.at_least_one().insert_into(table, &format!("{section}.{new_name}"))?,
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
        table.insert(key_at(name, &self.value), self.value);
        Ok(())
    }

    /// Without a further attempt there was a first one all the same; other numbers are near enough.
    fn at_least_one(mut self) -> Self {
        let is_zero = self.value.get_ref().as_integer().is_some_and(|number| number.as_str() == "0");
        if let Some(one) = DeValue::parse("1").ok().filter(|_| is_zero) {
            *self.value.get_mut() = one.into_inner();
        }
        self
    }

    /// Puts the value where `new_path` leads from `root`; its section comes into being if need be.
    fn move_below(self, root: &mut DeTable<'text>, new_path: &str) -> Result<(), TwoSpellings> {
        let Some((section, _)) = new_path.split_once('.') else { return self.insert_into(root, new_path) };
        let empty = || Spanned::new(self.value.span(), DeValue::Table(DeTable::new()));
        match root.entry(key_at(section, &self.value)).or_insert_with(empty).get_mut() {
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
            table.insert(key_at(name, &self.value), self.value);
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

/// `'IP:PORT'` as a string and an integer. `None` if it is not that, or is written with escapes, which no address needs.
fn split_address<'text>(address: &DeValue<'text>) -> Option<(DeValue<'text>, DeValue<'text>)> {
    let DeValue::String(Cow::Borrowed(address)) = *address else { return None };
    let ip_address = address.parse::<SocketAddr>().ok()?.ip().to_string();
    let (_, port) = address.rsplit_once(':')?;
    let port = DeValue::parse(port).ok()?.into_inner();
    Some((DeValue::String(Cow::Owned(ip_address)), port))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        time::Duration,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        casper::rpc::RpcOptions,
        config::samples::{self, DEFAULT_FULL, DEFAULT_SSE_ONLY, EVERY_ERA, loaded, refused},
        engine::http::cors::Origins,
    };

    #[test]
    fn a_file_of_every_era_loads_with_no_warning_but_for_keys_that_lost_their_effect() {
        for text in EVERY_ERA {
            let loaded = loaded(text);
            assert!(loaded.warnings.iter().all(|w| matches!(w, Warning::NoEffect { .. })), "{:?}", loaded.warnings);
            let sse = loaded.config.sse_server.unwrap();
            assert_eq!(sse.event_stream_server.port.port, 19999);
            assert!(!sse.connections.is_empty());
            assert_eq!(sse.keep_only_newest, None);
            assert!(loaded.config.storage.is_some());
        }
    }

    #[test]
    fn the_list_of_nodes_of_2022_keeps_every_value() {
        for text in [samples::ERA_2022_10.to_owned(), format!("[connection]{}", samples::ERA_2022_10)] {
            let loaded = loaded(&text);
            let sse = loaded.config.sse_server.unwrap();
            let [first, second] = sse.connections.as_slice() else { panic!("{:?}", sse.connections) };
            assert_eq!((first.sse_port, second.sse_port), (18101, 18102));
            assert_eq!((first.max_attempts, second.max_attempts), (5, 6));
            assert_eq!((first.enable_logging, second.enable_logging), (true, false));
            assert_eq!(second.delay_between_retries, Duration::from_secs(8));
            let rest = loaded.config.rest_api_server.unwrap().options;
            assert_eq!(rest.port, 17777);
            // What was closed to the network stays closed.
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
            assert_eq!(rest.listen.addresses, loopback);
            assert_eq!(sse.event_stream_server.port.listen.addresses, loopback);
            let without_effect: Vec<String> = loaded.warnings.iter().map(Warning::to_string).collect();
            assert_eq!(without_effect.len(), 2, "{without_effect:?}");
            assert!(without_effect[0].contains("`storage.sqlite_config.max_read_connections` (line "));
        }
    }

    #[test]
    fn no_retries_are_one_attempt() {
        let attempts = |retries: &str| {
            let text = samples::ERA_2023_02.replace("max_retries = 10", &format!("max_retries = {retries}"));
            loaded(&text).config.sse_server.unwrap().connections[0].max_attempts
        };
        assert_eq!((attempts("0"), attempts("1"), attempts("7")), (1, 1, 7));
    }

    #[test]
    fn sections_at_top_level_mean_what_the_sections_of_today_mean() {
        let old = loaded(samples::ERA_2023_09).config;
        let today = samples::ERA_2023_09
            .replace("[[connections]]", "[[sse_server.connections]]")
            .replace("[event_stream_server]", "[sse_server.event_stream_server]")
            .replace("[rest_server]", "[rest_api_server]")
            .replace("[admin_server]", "[admin_api_server]")
            .replace("storage_path", "storage_folder");
        assert_eq!(old, loaded(&today).config);
        assert_eq!(old.admin_api_server.unwrap().port, 18887);
        assert_eq!(old.storage.unwrap().exports.postgresql.unwrap().max_connections, 30);
    }

    #[test]
    fn sections_inside_the_sse_section_mean_what_the_sections_of_today_mean() {
        let old = loaded(samples::ERA_2024_01).config;
        let today = samples::ERA_2024_01
            .replace("[sse_server.storage", "[storage")
            .replace("[sse_server.rest_server]", "[rest_api_server]")
            .replace("[sse_server.admin_server]", "[admin_api_server]");
        assert_eq!(old, loaded(&today).config);
        assert!(old.rest_api_server.is_some() && old.admin_api_server.is_some());
        assert!(old.storage.unwrap().exports.sqlite.is_some());
    }

    #[test]
    fn rpc_addresses_and_message_sizes_of_2024_are_taken_over() {
        let loaded = loaded(samples::ERA_2024_01);
        let RpcOptions { servers, link, .. } = loaded.config.rpc_server.unwrap().options;
        let [main, speculative] = servers.as_slice() else { panic!("{servers:?}") };
        assert_eq!(main.listen.addresses, [IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
        assert_eq!((main.port, speculative.port), (7777, 7778));
        assert_eq!((&main.listen.origins, &speculative.listen.origins), (&Origins::Off, &Origins::Any));
        assert_eq!(link.address.to_string(), "127.0.0.1:28101");
        assert_eq!(link.message_bytes_max, 8_388_608);
        assert_eq!(link.message_timeout, Duration::from_secs(30));
        assert_eq!(link.access_timeout, Duration::from_secs(10));
        assert_eq!(link.keepalive_interval, Duration::from_secs(1));
        assert_eq!(link.backoff.max_delay, Duration::from_secs(32));
        assert_eq!(link.backoff.max_attempts, 3);
        assert_eq!((link.request_limit, link.request_buffer_size), (3, 16));
        assert_eq!(loaded.warnings, []);
    }

    #[test]
    fn the_larger_of_two_old_message_sizes_counts_in_either_order() {
        let swapped = samples::ERA_2024_01.replace("4_194_304", "0x90_0000");
        let size = |text: &str| loaded(text).config.rpc_server.unwrap().options.link.message_bytes_max;
        assert_eq!(size(&swapped), 0x90_0000);
        let error = refused(&samples::ERA_2024_01.replace("8_388_608", "true"));
        assert!(error.contains("max_response_size_bytes = true"), "{error}");
    }

    #[test]
    fn an_ipv6_address_is_split_too() {
        let text = samples::ERA_2024_01.replace("0.0.0.0:7777", "[::1]:7777");
        let main = loaded(&text).config.rpc_server.unwrap().options.servers.remove(0);
        assert_eq!((main.listen.addresses, main.port), (vec!["::1".parse().unwrap()], 7777));
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_the_fix() {
        for address in ["'0.0.0.0'", "'localhost:7777'", "'0.0.0.0:99999'", "7777"] {
            let error = refused(&samples::ERA_2024_01.replace("'0.0.0.0:7777'", address));
            assert!(error.contains("`rpc_server.main_server.address` is "), "{error}");
            assert!(error.contains("(line 4); set `ip_address = 'IP'` and `port = NUMBER` instead"), "{error}");
        }
    }

    #[test]
    fn a_setting_under_both_of_its_names_is_refused() {
        let both = [
            ("storage_path = 'a'\nstorage_folder", "storage_folder", "storage.storage_path", "storage.storage_folder"),
            ("[rest_server]\nport = 1\n[rest_api_server]", "[rest_api_server]", "rest_server", "rest_api_server"),
            (
                "[sse_server.storage]\nstorage_folder = 'a'\n[sse_server]",
                "[sse_server]",
                "sse_server.storage",
                "storage",
            ),
            ("[[connections]]\nsse_port = 1\n[sse_server]", "[sse_server]", "connections", "sse_server.connections"),
            (
                "max_retries = 1\nmax_attempts",
                "max_attempts",
                "sse_server.connections.max_retries",
                "sse_server.connections.max_attempts",
            ),
        ];
        for (with_both, place, old, new) in both {
            let error = refused(&DEFAULT_FULL.replacen(&format!("\n{place}"), &format!("\n{with_both}"), 1));
            let expected = format!("is an old spelling of `{new}`, which is set too; keep only `{new}`");
            assert!(error.contains(&format!("`{old}` (line ")) && error.contains(&expected), "{error}");
        }
        let error = refused(&DEFAULT_FULL.replace("port = 7777", "port = 7777\naddress = '0.0.0.0:7777'"));
        assert!(error.contains("keep only `rpc_server.main_server.ip_address`"), "{error}");
    }

    #[test]
    fn an_error_in_an_old_section_points_at_its_line() {
        let error = refused(&samples::ERA_2023_09.replace("max_attempts = 10", "max_attempts = 0"));
        assert!(error.contains("`sse_server.connections[0].max_attempts` is 0 (line 6)"), "{error}");
        let error = refused(&samples::ERA_2022_11.replace("port = 17777", "port = true"));
        assert!(error.contains("at line 16, column 8") && error.contains("in `rest_api_server.port`"), "{error}");
    }

    #[test]
    fn a_section_of_the_wrong_type_is_refused_and_not_replaced() {
        let error = refused(&format!("sse_server = 3\n{}", samples::ERA_2023_09));
        assert!(error.contains("at line 1, column 14"), "{error}");
    }

    #[test]
    fn no_change_leads_to_another_old_spelling_that_was_changed_before() {
        for (position, (old, change)) in CHANGES.iter().enumerate() {
            let Some(new) = change.new_spelling(old) else { continue };
            let earlier = CHANGES[..=position].iter().find(|(path, _)| *path == new);
            assert!(earlier.is_none(), "`{old}` becomes `{new}`, which is not changed any more");
        }
    }

    /// The document after one and after two rounds of changes.
    fn once_and_twice(text: &str) -> Option<(String, String, Vec<Warning>)> {
        let mut document = Document::parse(text).ok()?;
        modernise(&mut document).ok()?;
        let once = format!("{:?}", document.root);
        let warnings = modernise(&mut document).expect("a modern document needs no change");
        Some((once, format!("{:?}", document.root), warnings))
    }

    #[test]
    fn a_modern_file_is_not_changed() {
        for text in [DEFAULT_SSE_ONLY, DEFAULT_FULL] {
            let (once, _, _) = once_and_twice(text).unwrap();
            assert_eq!(format!("{:?}", Document::parse(text).unwrap().root), once);
        }
    }

    proptest! {
        #[test]
        fn changing_old_spellings_twice_is_changing_them_once(
            lines in prop::collection::vec((0..CHANGES.len(), prop::sample::select(vec!["1", "'1.2.3.4:5'", "{}", "[{}]", "[{a = 1}, 2]"])), 0..12),
            era in 0..EVERY_ERA.len() + 1,
        ) {
            let lines: String = lines.iter().map(|(old, value)| format!("{} = {value}\n", CHANGES[*old].0)).collect();
            let text = format!("{lines}{}", EVERY_ERA.get(era).unwrap_or(&""));
            if let Some((once, twice, warnings)) = once_and_twice(&text) {
                prop_assert_eq!(once, twice);
                prop_assert_eq!(warnings, vec![]);
            }
        }
    }
}
