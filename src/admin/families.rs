//! Families of metrics, collected for one scrape, in the text format 0.0.4 of Prometheus.
//!
//! Samples flow in by family, of all logs and parts. The crate that the reference has writes them, so that every name, bound
//! and number looks as it does there: a bound is a label, and `5e+06` would be another series than `5000000`.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::engine::counters::{Count, Snapshot};

/// Families of metrics, by name.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<MetricFamily>);

/// The families, whose samples from here are about the process, or about one log, which a label then names.
pub(super) struct Group<'a> {
    families: &'a mut Families,
    log: Option<&'a str>,
}

/// A family to which samples are added.
pub(super) struct Samples<'a> {
    family: &'a mut MetricFamily,
    log: Option<&'a str>,
}

impl Families {
    pub(super) fn of_process(&mut self) -> Group<'_> {
        Group { families: self, log: None }
    }

    pub(super) fn of_log<'a>(&'a mut self, log: &'a str) -> Group<'a> {
        Group { families: self, log: Some(log) }
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType) -> &mut MetricFamily {
        let place = self.0.partition_point(|family| family.name() < name);
        if self.0.get(place).is_none_or(|family| family.name() != name) {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            self.0.insert(place, family);
        }
        #[expect(clippy::indexing_slicing, reason = "it is there, or was inserted")]
        &mut self.0[place]
    }

    /// Their text, sorted by name; a family without a sample does not appear.
    pub(super) fn into_text(mut self) -> String {
        self.0.retain(|family| !family.get_metric().is_empty());
        let mut text = String::new();
        // Only a family without a name or a sample is refused.
        let _ = TextEncoder::new().encode_utf8(&self.0, &mut text);
        text
    }
}

impl Group<'_> {
    pub(super) fn counter(&mut self, name: &str, help: &str) -> Samples<'_> {
        self.samples(name, help, MetricType::COUNTER)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Samples<'_> {
        self.samples(name, help, MetricType::GAUGE)
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str) -> Samples<'_> {
        self.samples(name, help, MetricType::HISTOGRAM)
    }

    /// Adds a counter with one sample.
    pub(super) fn counted(&mut self, name: &str, help: &str, count: &Count) {
        self.counter(name, help).count(&[], count.get());
    }

    fn samples(&mut self, name: &str, help: &str, kind: MetricType) -> Samples<'_> {
        Samples { family: self.families.family(name, help, kind), log: self.log }
    }
}

impl Samples<'_> {
    /// Adds the value of one set of labels.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let mut metric = Metric::default();
        match self.family.get_field_type() {
            MetricType::COUNTER => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.add(labels, metric)
    }

    /// The same, of a whole number that may be below 0.
    pub(super) fn whole(&mut self, labels: &[(&str, &str)], value: i64) -> &mut Self {
        self.sample(labels, value as f64)
    }

    /// The same, of a count.
    pub(super) fn count(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.sample(labels, value as f64)
    }

    /// The same, of a time in microseconds since the Unix epoch, if there is one.
    pub(super) fn time(&mut self, labels: &[(&str, &str)], time: Option<u64>) -> &mut Self {
        match time {
            Some(microseconds) => self.sample(labels, microseconds as f64 / 1e6),
            None => self,
        }
    }

    /// Adds the buckets, sum and count of one set of labels, each unit of the histogram being one of `units`.
    pub(super) fn distribution(&mut self, labels: &[(&str, &str)], values: &Snapshot, units: u64) -> &mut Self {
        let shown = |value: u64| value as f64 / units as f64;
        let bucket = |(bound, count): &(u64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(shown(*bound));
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(values.within.iter().map(bucket).collect());
        histogram.set_sample_sum(shown(values.sum));
        histogram.set_sample_count(values.count);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.add(labels, metric)
    }

    fn add(&mut self, labels: &[(&str, &str)], mut metric: Metric) -> &mut Self {
        let log = self.log.map(|log| ("log", log));
        let labels = log.into_iter().chain(labels.iter().copied()).map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name(name.to_owned());
            label.set_value(value.to_owned());
            label
        });
        metric.set_label(labels.collect());
        self.family.mut_metric().push(metric);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::counters::{Histogram, Tally};

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
    fn names_and_whole_numbers_are_written_as_they_are() {
        let mut families = Families::default();
        let group = &mut families.of_process();
        group.counter("error_counts", "Error counts").count(&[("category", "error_counts_total")], 3);
        group.gauge("node_statuses", "Statuses").whole(&[("node", "n")], -2);
        group.gauge("sequence", "Sequence").count(&[], 12_345_678_901);
        let expected = "# HELP error_counts Error counts\n# TYPE error_counts counter\n\
                        error_counts{category=\"error_counts_total\"} 3\n\
                        # HELP node_statuses Statuses\n# TYPE node_statuses gauge\nnode_statuses{node=\"n\"} -2\n\
                        # HELP sequence Sequence\n# TYPE sequence gauge\nsequence 12345678901\n";
        assert_eq!(families.into_text(), expected);
    }

    #[test]
    fn sizes_have_the_bounds_and_sums_of_the_reference() {
        let tally = Tally::default();
        tally.add(&"x".repeat(1215));
        tally.add(&"x".repeat(5_000_001));
        let mut families = Families::default();
        let labels = [("message_type", "BlockAdded")];
        families.of_process().histogram("db_raw_data_size", "Size").distribution(&labels, &tally.snapshot(), 1);
        let expected = "# HELP db_raw_data_size Size\n# TYPE db_raw_data_size histogram\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"500\"} 0\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"1000\"} 0\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"2000\"} 1\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"5000\"} 1\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"50000\"} 1\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"500000\"} 1\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"5000000\"} 1\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"50000000\"} 2\n\
                        db_raw_data_size_bucket{message_type=\"BlockAdded\",le=\"+Inf\"} 2\n\
                        db_raw_data_size_sum{message_type=\"BlockAdded\"} 5001216\n\
                        db_raw_data_size_count{message_type=\"BlockAdded\"} 2\n";
        assert_eq!(families.into_text(), expected);
    }

    #[test]
    fn times_are_written_in_their_unit() {
        let histogram = Histogram::new(&[1000, 5000]);
        histogram.observe(1500);
        histogram.observe(9000);
        let mut families = Families::default();
        families.of_process().histogram("times", "Times").distribution(
            &[("label", "/block")],
            &histogram.snapshot(),
            1000,
        );
        let expected = "# HELP times Times\n# TYPE times histogram\n\
                        times_bucket{label=\"/block\",le=\"1\"} 0\n\
                        times_bucket{label=\"/block\",le=\"5\"} 1\n\
                        times_bucket{label=\"/block\",le=\"+Inf\"} 2\n\
                        times_sum{label=\"/block\"} 10.5\n\
                        times_count{label=\"/block\"} 2\n";
        assert_eq!(families.into_text(), expected);
    }
}
