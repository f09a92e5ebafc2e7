//! `[storage.log]`.

use std::time::Duration;

use serde::Deserialize;
use sidecar_log_format::{Durability, ReadOptions, RewriteOptions, WriteOptions};

use crate::{
    casper::source::EVENT_BYTES_MAX_DEFAULT,
    config::{
        bounds::{DAY_SECONDS, GIB, KIB, MIB, PIB, SECONDS_MAX, TIB},
        description::{DefaultValue, KeyDescription, Kind, SectionDescription, bytes, count, milliseconds, seconds},
        error::ConfigError,
        section::Section,
    },
    engine::ingest::identity,
};

/// Enough for some 10,000 events that are looked up repeatedly. Clients of the event stream read in order and need
/// less.
const REST_BLOCK_CACHE_BYTES: usize = 16 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Log")]
pub(in crate::config) struct Keys {
    #[serde(default)]
    durability: Durability,
    sync_interval_ms: Option<i64>,
    segment_bytes_max: Option<i64>,
    segment_age_max_seconds: Option<i64>,
    block_bytes_max: Option<i64>,
    compression_level: Option<i64>,
    event_bytes_max: Option<i64>,
    block_cache_bytes: Option<i64>,
    decode_concurrency: Option<i64>,
    index_cache_bytes: Option<i64>,
    index_tail_bytes_max: Option<i64>,
    free_bytes_min: Option<i64>,
    create_if_missing: Option<bool>,
    allow_network_change: Option<bool>,
    #[serde(default)]
    compaction: Switch,
    compaction_level: Option<i64>,
    compaction_bytes_per_second: Option<i64>,
    retention_bytes_max: Option<i64>,
    retention_age_max: Option<i64>,
    retention_wait_bytes_max: Option<i64>,
    view_cache_bytes: Option<i64>,
}

/// `[storage.log]`.
pub(in crate::config) const SECTION: SectionDescription = SectionDescription {
    path: "storage.log",
    is_list: false,
    text: "The log: every event, on disk, in the order in which it is served.",
    keys: &[
        KeyDescription::new(
            "durability",
            Kind::Word(&["commit", "interval", "os"]),
            DefaultValue::Value("\"commit\""),
            "When an event counts as stored and is shown to clients. \"commit\": when the disk has confirmed it. \"interval\": \
             the same, but the disk is asked only every sync_interval_ms. \"os\": when the operating system has it, so that \
             a power cut may lose the newest events.",
        ),
        KeyDescription::new(
            "sync_interval_ms",
            milliseconds(1, 60_000),
            DefaultValue::Value("100"),
            "How often the disk is asked with durability = \"interval\".",
        ),
        KeyDescription::new(
            "segment_bytes_max",
            bytes(MIB, 16 * GIB),
            DefaultValue::Value("\"128 MiB\""),
            "A log file is finished when it has this size.",
        ),
        KeyDescription::new(
            "segment_age_max_seconds",
            seconds(1, 366 * DAY_SECONDS),
            DefaultValue::Value("\"1 day\""),
            "A log file is finished when it is this old.",
        ),
        KeyDescription::new(
            "block_bytes_max",
            bytes(4 * KIB, MIB),
            DefaultValue::Value("\"512 KiB\""),
            "The most raw bytes that are compressed together. More saves disk space. Less makes it cheaper to start in the \
             middle.",
        ),
        KeyDescription::new(
            "compression_level",
            count(1, 19),
            DefaultValue::Value("1"),
            "The zstd level of new blocks. 1 is best for most: higher levels cost much and save little.",
        ),
        KeyDescription::new(
            "event_bytes_max",
            bytes(KIB, 256 * MIB),
            DefaultValue::Value("\"32 MiB\""),
            "The largest event that is accepted from a node.",
        ),
        KeyDescription::new(
            "block_cache_bytes",
            bytes(MIB, TIB),
            DefaultValue::Otherwise("8 MiB, or 16 MiB when the REST server answers from the log"),
            "Memory for decompressed blocks that several clients may want, and for single events that were looked up. 16 MiB \
             hold about 17,000 events in blocks.",
        )
        .with_example("\"16 MiB\""),
        KeyDescription::new(
            "decode_concurrency",
            count(1, 1024),
            DefaultValue::Value("2"),
            "How many blocks are decompressed at once.",
        ),
        KeyDescription::new(
            "index_cache_bytes",
            bytes(MIB, TIB),
            DefaultValue::Value("\"4 MiB\""),
            "Memory for the index that recognises events seen before.",
        ),
        KeyDescription::new(
            "index_tail_bytes_max",
            bytes(MIB, TIB),
            DefaultValue::Value("\"4 MiB\""),
            "Memory for the part of that index that is not in its file yet. When it is full, nodes wait.",
        ),
        KeyDescription::new(
            "free_bytes_min",
            bytes(0, TIB),
            DefaultValue::Value("\"64 MiB\""),
            "The free space that stays on the disk. Rather than take it, Sidecar stores nothing and lets nodes wait. So the \
             index can still be written, and the log can be closed.",
        ),
        KeyDescription::new(
            "create_if_missing",
            Kind::Switch,
            DefaultValue::Value("true"),
            "Whether a new log is made where there is none. A volume that is not mounted looks like a first start: with \
             false, Sidecar does not start then.",
        ),
        KeyDescription::new(
            "allow_network_change",
            Kind::Switch,
            DefaultValue::Value("false"),
            "Whether the log accepts another network after a start. A log holds events of one network: that of its newest \
             event, or in an empty log that of the first node that connects. Nodes of another one are refused.",
        ),
        KeyDescription::new(
            "compaction",
            Kind::Word(&["on", "off"]),
            DefaultValue::Value("\"on\""),
            "Whether finished log files are compressed again, much harder, while the machine has time. With \"off\" only the \
             small blocks of quiet times are merged. `sidecar-log compact --dry-run` reports what it saves.",
        ),
        KeyDescription::new(
            "compaction_level",
            count(1, 19),
            DefaultValue::Value("19"),
            "The zstd level of compaction.",
        ),
        KeyDescription::new(
            "compaction_bytes_per_second",
            bytes(KIB, TIB),
            DefaultValue::Value("\"256 KiB\""),
            "The most bytes of events that are compressed again per second. 256 KiB takes a tenth of one CPU, and keeps up \
             with forty times the events of Casper's main network. While the rest of Sidecar uses more than an eighth of the \
             CPUs, the rate is a sixteenth of that.",
        ),
        KeyDescription::new(
            "retention_bytes_max",
            bytes(0, PIB),
            DefaultValue::Value("\"none\""),
            "The most space that the log takes on disk. Beyond it the oldest log files are dropped whole. \"none\" or 0: no \
             limit.",
        ),
        KeyDescription::new(
            "retention_age_max",
            seconds(0, SECONDS_MAX),
            DefaultValue::Value("\"none\""),
            "How long events are kept after they were received, for example \"30 days\". \"none\" or 0: indefinitely.",
        ),
        KeyDescription::new(
            "retention_wait_bytes_max",
            bytes(0, PIB),
            DefaultValue::Value("\"1 GiB\""),
            "How much more than these limits is kept for a database export that has not read it yet. Clients are not waited \
             for.",
        ),
        KeyDescription::new(
            "view_cache_bytes",
            bytes(MIB, TIB),
            DefaultValue::Value("\"4 MiB\""),
            "Memory for the views, which find events by hash, height, era and key for the REST server.",
        ),
    ],
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    #[default]
    On,
    Off,
}

/// `[storage.log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// When an event counts as stored.
    pub durability: Durability,
    /// How often the disk is asked with [`Durability::Interval`].
    pub sync_interval: Duration,
    /// A segment is sealed when it has this many bytes.
    pub segment_bytes_max: u64,
    /// A segment is sealed when it is this old.
    pub segment_age_max: Duration,
    /// The most raw bytes that go into one block; a larger event gets a block of its own.
    pub block_bytes_max: usize,
    /// The zstd level of new blocks.
    pub compression_level: i32,
    /// The largest event that is taken from a node, in bytes.
    pub event_bytes_max: usize,
    /// The most memory that decompressed blocks take, in bytes.
    pub block_cache_bytes: usize,
    /// The most blocks that are decompressed at once.
    pub decode_concurrency: usize,
    /// The memory of the identity index's page cache, in bytes.
    pub index_cache_bytes: usize,
    /// The most memory that identities which are not yet in the index file take, in bytes.
    pub index_tail_bytes_max: u64,
    /// Ingest waits rather than leave fewer bytes than these free on the device.
    pub free_bytes_min: u64,
    /// Whether a log is begun where there is none.
    pub create_if_missing: bool,
    /// Whether the log takes events of another network than those that it holds.
    pub allow_network_change: bool,
    /// How finished segments are compacted; `None` leaves them as they were written, but for small blocks.
    pub compaction: Option<Compaction>,
    /// The most bytes on disk before the oldest segments are dropped; `None` keeps all.
    pub retention_bytes_max: Option<u64>,
    /// How long events are kept; `None` keeps all.
    pub retention_age_max: Option<Duration>,
    /// How many bytes more are kept for a view or exporter that has not read them yet.
    pub retention_wait_bytes_max: u64,
    /// The memory of the views' page cache, in bytes.
    pub view_cache_bytes: usize,
}

/// `compaction = "on"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The zstd level.
    pub level: i32,
    /// How many bytes of events are compressed again per second at most.
    pub bytes_per_second: u64,
}

pub(in crate::config) fn check(
    keys: &Keys,
    rest_from_log: bool,
    section: &Section<'_>,
) -> Result<LogSettings, ConfigError> {
    let (write, read, index) =
        (WriteOptions::new("", [0; 16], 0), ReadOptions::default(), identity::Options::default());
    Ok(LogSettings {
        durability: keys.durability,
        sync_interval: section.milliseconds_or(
            "sync_interval_ms",
            keys.sync_interval_ms,
            Duration::from_millis(100),
        )?,
        segment_bytes_max: section.number_or("segment_bytes_max", keys.segment_bytes_max, write.segment_bytes_max)?,
        segment_age_max: section.seconds_or(
            "segment_age_max_seconds",
            keys.segment_age_max_seconds,
            Duration::from_micros(write.segment_age_max),
        )?,
        block_bytes_max: section.number_or("block_bytes_max", keys.block_bytes_max, write.block_bytes_max)?,
        compression_level: section.number_or("compression_level", keys.compression_level, write.compression_level)?,
        event_bytes_max: section.number_or("event_bytes_max", keys.event_bytes_max, EVENT_BYTES_MAX_DEFAULT)?,
        block_cache_bytes: section.number_or(
            "block_cache_bytes",
            keys.block_cache_bytes,
            if rest_from_log { REST_BLOCK_CACHE_BYTES } else { read.cache_bytes },
        )?,
        decode_concurrency: section.number_or("decode_concurrency", keys.decode_concurrency, 2)?,
        index_cache_bytes: section.number_or("index_cache_bytes", keys.index_cache_bytes, index.cache_bytes)?,
        index_tail_bytes_max: section.number_or(
            "index_tail_bytes_max",
            keys.index_tail_bytes_max,
            index.tail_bytes_max,
        )?,
        free_bytes_min: section.number_or("free_bytes_min", keys.free_bytes_min, 64 << 20)?,
        create_if_missing: keys.create_if_missing.unwrap_or(true),
        allow_network_change: keys.allow_network_change.unwrap_or(false),
        compaction: compaction(keys, section)?,
        retention_bytes_max: Some(section.number_or("retention_bytes_max", keys.retention_bytes_max, 0)?)
            .filter(|&bytes_max| bytes_max > 0),
        retention_age_max: Some(section.seconds_or("retention_age_max", keys.retention_age_max, Duration::ZERO)?)
            .filter(|age_max| !age_max.is_zero()),
        retention_wait_bytes_max: section.number_or(
            "retention_wait_bytes_max",
            keys.retention_wait_bytes_max,
            1 << 30,
        )?,
        view_cache_bytes: section.number_or("view_cache_bytes", keys.view_cache_bytes, 4 << 20)?,
    })
}

fn compaction(keys: &Keys, section: &Section<'_>) -> Result<Option<Compaction>, ConfigError> {
    let (level, rate) = (keys.compaction_level, keys.compaction_bytes_per_second);
    let compaction = Compaction {
        level: section.number_or("compaction_level", level, RewriteOptions::COMPACTION.level)?,
        bytes_per_second: section.number_or("compaction_bytes_per_second", rate, 256 << 10)?,
    };
    Ok((keys.compaction == Switch::On).then_some(compaction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{DEFAULT_FULL, DEFAULT_SSE_ONLY, load, loaded, refused};

    #[test]
    fn defaults_are_the_documented_ones() {
        let expected = LogSettings {
            durability: Durability::Commit,
            sync_interval: Duration::from_millis(100),
            segment_bytes_max: 134_217_728,
            segment_age_max: Duration::from_secs(86_400),
            block_bytes_max: 524_288,
            compression_level: 1,
            event_bytes_max: 33_554_432,
            block_cache_bytes: 8_388_608,
            decode_concurrency: 2,
            index_cache_bytes: 4_194_304,
            index_tail_bytes_max: 4_194_304,
            free_bytes_min: 67_108_864,
            create_if_missing: true,
            allow_network_change: false,
            compaction: Some(Compaction { level: 19, bytes_per_second: 262_144 }),
            retention_bytes_max: None,
            retention_age_max: None,
            retention_wait_bytes_max: 1_073_741_824,
            view_cache_bytes: 4_194_304,
        };
        assert_eq!(loaded(DEFAULT_SSE_ONLY).config.storage.unwrap().log, expected);
    }

    #[test]
    fn the_word_for_durability_and_the_interval_are_taken_over() {
        let durability = |word: &str| {
            let text = DEFAULT_FULL.replace("sync_interval_ms = 100", "sync_interval_ms = 250");
            let text = text.replace("durability = \"commit\"", &format!("durability = \"{word}\""));
            load(&text).map(|loaded| loaded.config.storage.unwrap().log)
        };
        assert_eq!(durability("commit").unwrap().durability, Durability::Commit);
        let interval = durability("interval").unwrap();
        assert_eq!((interval.durability, interval.sync_interval), (Durability::Interval, Duration::from_millis(250)));
        assert_eq!(durability("os").unwrap().durability, Durability::Os);
        let error = refused(&DEFAULT_FULL.replace("durability = \"commit\"", "durability = \"never\""));
        assert!(error.contains("unknown variant `never`, expected one of `commit`, `interval`, `os`"), "{error}");
        assert!(error.contains("in `storage.log.durability`"), "{error}");
    }

    #[test]
    fn retention_and_compaction_are_switched_by_their_keys() {
        let log = |keys: &str| {
            let text = DEFAULT_SSE_ONLY.replace("[sse_server]", &format!("[storage.log]\n{keys}\n[sse_server]"));
            loaded(&text).config.storage.unwrap().log
        };
        let day = Duration::from_secs(86_400);
        assert_eq!(log("retention_age_max = '30 days'").retention_age_max, Some(30 * day));
        assert_eq!(log("retention_age_max = '1day 12h'").retention_age_max, Some(day + day / 2));
        assert_eq!(log("retention_age_max = 3600").retention_age_max, Some(day / 24));
        for word in ["'none'", "'off'", "0"] {
            assert_eq!(log(&format!("retention_age_max = {word}")).retention_age_max, None);
        }
        assert_eq!(log("retention_bytes_max = 1_000_000").retention_bytes_max, Some(1_000_000));
        assert_eq!(log("compaction = 'off'").compaction, None);
    }
}
