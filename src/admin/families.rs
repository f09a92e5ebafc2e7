//! Families of metrics, collected for one scrape, in the text format 0.0.4 of Prometheus.
//!
//! Samples flow in by family, of all logs and parts; prometheus-client writes them.

use std::fmt::{self, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::engine::counters::{Count, Snapshot};

/// The suffix that the writer of the format gives the name of every counter.
const COUNTER_SUFFIX: &str = "_total";
/// The reference's counters without that suffix. People's alerts ask for these names.
const COUNTERS_WITHOUT_SUFFIX: [&str; 3] = ["error_counts", "rpc_server_endpoint_calls", "rpc_server_timeout_counts"];

/// Families of metrics, by name.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<Family>);

/// The families, whose samples from here are about the process, or about one log, which a label then names.
pub(super) struct Group<'a> {
    families: &'a mut Families,
    log: Option<&'a str>,
}

/// All samples of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<Sample>,
}

/// One set of labels, and what was counted for it.
#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Count(u64),
    Whole(i64),
    Number(f64),
    /// Each bucket has the values that are in no smaller one.
    Distribution {
        sum: f64,
        count: u64,
        buckets: Vec<(f64, u64)>,
    },
}

/// A family to which samples are added.
pub(super) struct Samples<'a> {
    family: &'a mut Family,
    log: Option<&'a str>,
}

impl Families {
    pub(super) fn of_process(&mut self) -> Group<'_> {
        Group { families: self, log: None }
    }

    pub(super) fn of_log<'a>(&'a mut self, log: &'a str) -> Group<'a> {
        Group { families: self, log: Some(log) }
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: MetricType) -> &mut Family {
        let place = self.0.partition_point(|family| family.name < name);
        if self.0.get(place).is_none_or(|family| family.name != name) {
            self.0.insert(place, Family { name, help, kind, samples: Vec::new() });
        }
        #[expect(clippy::indexing_slicing, reason = "it is there, or was inserted")]
        &mut self.0[place]
    }

    /// Their text, sorted by name; a family without a sample does not appear.
    pub(super) fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        as_the_reference_writes(&text)
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().filter(|family| !family.samples.is_empty()).try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let name = match self.kind {
            MetricType::Counter => self.name.strip_suffix(COUNTER_SUFFIX).unwrap_or(self.name),
            _ => self.name,
        };
        let mut metric = encoder.encode_descriptor(name, self.help, None, self.kind)?;
        self.samples.iter().try_for_each(|sample| self.encode_sample(sample, metric.encode_family(&sample.labels)?))
    }

    fn encode_sample(&self, sample: &Sample, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let is_counter = matches!(self.kind, MetricType::Counter);
        match &sample.value {
            Value::Count(count) if is_counter => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
            Value::Number(number) if is_counter => encoder.encode_counter::<NoLabelSet, _, u64>(number, None),
            Value::Count(count) => encoder.encode_gauge(count),
            Value::Whole(number) => encoder.encode_gauge(number),
            Value::Number(number) => encoder.encode_gauge(number),
            Value::Distribution { sum, count, buckets } => {
                encoder.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
            }
        }
    }
}

/// The text with names and numbers as the reference writes them: a bucket's bound is a label, so `5e+06` would be another
/// series than `5000000`.
fn as_the_reference_writes(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("# ") {
            Some(_) => push_named(&mut written, line, "# HELP ".len()),
            None => push_sample(&mut written, line),
        }
    }
    written
}

/// Takes the suffix from the name at `place`, if the reference has that counter without it.
fn push_named(written: &mut String, line: &str, place: usize) {
    let named = line.get(place..).unwrap_or_default();
    let suffix = COUNTERS_WITHOUT_SUFFIX.iter().find_map(|name| {
        let is_suffixed = named.strip_prefix(name).is_some_and(|rest| rest.starts_with(COUNTER_SUFFIX));
        is_suffixed.then_some(place + name.len())
    });
    let (before, after) = line.split_at(suffix.unwrap_or_default());
    written.push_str(before);
    written.push_str(after.strip_prefix(COUNTER_SUFFIX).unwrap_or(after));
}

/// Writes whole numbers without exponent and decimal point: the bound of a bucket, which is its last label, and the value.
fn push_sample(written: &mut String, line: &str) {
    const BOUND: &str = "le=\"";
    let (mut series, value) = line.trim_end().rsplit_once(' ').unwrap_or((line, ""));
    let mut bound = None;
    if let Some((before, last)) = series.strip_suffix("\"}").and_then(|labels| labels.rsplit_once(BOUND))
        && before.ends_with(['{', ','])
        && let Ok(number @ 0.0..f64::INFINITY) = last.parse::<f64>()
    {
        (series, bound) = (before, Some(number));
    }
    push_named(written, series, 0);
    if let Some(bound) = bound {
        // Writing to a string does not fail.
        let _ = write!(written, "{BOUND}{bound}\"}}");
    }
    written.push(' ');
    written.push_str(value.strip_suffix(".0").unwrap_or(value));
    written.push('\n');
}

impl Group<'_> {
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.samples(name, help, MetricType::Counter)
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.samples(name, help, MetricType::Gauge)
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.samples(name, help, MetricType::Histogram)
    }

    /// Adds a counter with one sample.
    pub(super) fn counted(&mut self, name: &'static str, help: &'static str, count: &Count) {
        self.counter(name, help).count(&[], count.get());
    }

    fn samples(&mut self, name: &'static str, help: &'static str, kind: MetricType) -> Samples<'_> {
        Samples { family: self.families.family(name, help, kind), log: self.log }
    }
}

impl Samples<'_> {
    /// Adds the value of one set of labels.
    pub(super) fn sample(&mut self, labels: &[(&'static str, &str)], value: f64) -> &mut Self {
        self.add(labels, Value::Number(value))
    }

    /// The same, of a whole number that may be below 0.
    pub(super) fn whole(&mut self, labels: &[(&'static str, &str)], value: i64) -> &mut Self {
        self.add(labels, Value::Whole(value))
    }

    /// The same, of a count.
    pub(super) fn count(&mut self, labels: &[(&'static str, &str)], value: u64) -> &mut Self {
        self.add(labels, Value::Count(value))
    }

    /// The same, of a time in microseconds since the Unix epoch, if there is one.
    pub(super) fn time(&mut self, labels: &[(&'static str, &str)], time: Option<u64>) -> &mut Self {
        match time {
            Some(microseconds) => self.sample(labels, microseconds as f64 / 1e6),
            None => self,
        }
    }

    /// Adds the buckets, sum and count of one set of labels, each unit of the histogram being one of `units`.
    pub(super) fn distribution(&mut self, labels: &[(&'static str, &str)], values: &Snapshot, units: u64) -> &mut Self {
        let shown = |value: u64| value as f64 / units as f64;
        let within_smaller = std::iter::once(0).chain(values.within.iter().map(|(_, count)| *count));
        let buckets = values.within.iter().zip(within_smaller);
        let buckets = buckets.map(|((bound, count), smaller)| (shown(*bound), count.saturating_sub(smaller))).collect();
        self.add(labels, Value::Distribution { sum: shown(values.sum), count: values.count, buckets })
    }

    fn add(&mut self, labels: &[(&'static str, &str)], value: Value) -> &mut Self {
        let log = self.log.map(|log| ("log", log));
        let labels = log.into_iter().chain(labels.iter().copied()).map(|(name, value)| (name, value.to_owned()));
        self.family.samples.push(Sample { labels: labels.collect(), value });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::counters::Histogram;

    #[test]
    fn families_are_sorted_and_one_without_a_sample_does_not_appear() {
        let mut families = Families::default();
        families.of_process().gauge("b_things", "Things").sample(&[], 1.5);
        families.of_process().counter("a_errors_total", "Errors").count(&[("kind", "q\"\\\n")], 2);
        families.of_process().counter("never_total", "Never used");
        let expected = "# HELP a_errors_total Errors\n# TYPE a_errors_total counter\n\
                        a_errors_total{kind=\"q\\\"\\\\\\n\"} 2\n\
                        # HELP b_things Things\n# TYPE b_things gauge\nb_things 1.5\n";
        assert_eq!(families.into_text(), expected);
    }

    #[test]
    fn what_several_logs_count_is_one_family_with_their_names() {
        let mut families = Families::default();
        for (log, count) in [("casper", 1), ("beacon", 2)] {
            families.of_log(log).counter("events_total", "Events").count(&[("kind", "a")], count);
        }
        families.of_process().gauge("logs", "Logs").count(&[], 2);
        let expected = "# HELP events_total Events\n# TYPE events_total counter\n\
                        events_total{log=\"casper\",kind=\"a\"} 1\nevents_total{log=\"beacon\",kind=\"a\"} 2\n\
                        # HELP logs Logs\n# TYPE logs gauge\nlogs 2\n";
        assert_eq!(families.into_text(), expected);
    }

    #[test]
    fn counters_of_the_reference_keep_their_names_and_nothing_else_is_renamed() {
        let mut families = Families::default();
        let group = &mut families.of_process();
        group.counter("error_counts", "Error counts").count(&[("category", "error_counts_total")], 3);
        group.counter("error_counts_seen_total", "error_counts_total").count(&[], 4);
        let expected = "# HELP error_counts Error counts\n# TYPE error_counts counter\n\
                        error_counts{category=\"error_counts_total\"} 3\n\
                        # HELP error_counts_seen_total error_counts_total\n# TYPE error_counts_seen_total counter\n\
                        error_counts_seen_total 4\n";
        assert_eq!(families.into_text(), expected);
    }

    #[test]
    fn a_histogram_is_written_as_the_reference_writes_it() {
        let histogram = Histogram::new(&[1000, 5000, 5_000_000_000]);
        let mut families = Families::default();
        for (label, value) in [("/block", 2000), ("role=\"1e+03\"}", 9500)] {
            histogram.observe(value);
            let group = &mut families.of_process();
            group.histogram("times", "Times").distribution(&[("label", label)], &histogram.snapshot(), 1000);
        }
        let expected = "# HELP times Times\n# TYPE times histogram\n\
                        times_bucket{label=\"/block\",le=\"1\"} 0\n\
                        times_bucket{label=\"/block\",le=\"5\"} 1\n\
                        times_bucket{label=\"/block\",le=\"5000000\"} 1\n\
                        times_bucket{label=\"/block\",le=\"+Inf\"} 1\n\
                        times_sum{label=\"/block\"} 2\n\
                        times_count{label=\"/block\"} 1\n\
                        times_bucket{label=\"role=\\\"1e+03\\\"}\",le=\"1\"} 0\n\
                        times_bucket{label=\"role=\\\"1e+03\\\"}\",le=\"5\"} 1\n\
                        times_bucket{label=\"role=\\\"1e+03\\\"}\",le=\"5000000\"} 2\n\
                        times_bucket{label=\"role=\\\"1e+03\\\"}\",le=\"+Inf\"} 2\n\
                        times_sum{label=\"role=\\\"1e+03\\\"}\"} 11.5\n\
                        times_count{label=\"role=\\\"1e+03\\\"}\"} 2\n";
        assert_eq!(families.into_text(), expected);
    }
}
