//! The Prometheus text format, version 0.0.4.
//!
//! The crate prometheus-client writes OpenMetrics, which adds `_total` to counters' names, a full stop to help texts and
//! `.0` to bounds; people's dashboards have the reference's names, so the few lines of the older format are written here.

use std::fmt::Write;

use crate::engine::counters::{Count, Snapshot};

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
}

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
    kind: Type,
    samples: String,
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

    fn family(&mut self, name: &'static str, help: &'static str, kind: Type) -> &mut Family {
        let place = self.0.partition_point(|family| family.name < name);
        if self.0.get(place).is_none_or(|family| family.name != name) {
            self.0.insert(place, Family { name, help, kind, samples: String::new() });
        }
        #[expect(clippy::indexing_slicing, reason = "it is there, or was inserted")]
        &mut self.0[place]
    }

    /// Their text; one without a sample does not appear.
    pub(super) fn write(&self, text: &mut String) {
        for Family { name, help, kind, samples } in &self.0 {
            if samples.is_empty() {
                continue;
            }
            let kind = match kind {
                Type::Counter => "counter",
                Type::Gauge => "gauge",
                Type::Histogram => "histogram",
            };
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
    }
}

impl Group<'_> {
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.samples(name, help, Type::Counter)
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.samples(name, help, Type::Gauge)
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.samples(name, help, Type::Histogram)
    }

    /// Adds a counter with one sample.
    pub(super) fn counted(&mut self, name: &'static str, help: &'static str, count: &Count) {
        self.counter(name, help).count(&[], count.get());
    }

    fn samples(&mut self, name: &'static str, help: &'static str, kind: Type) -> Samples<'_> {
        Samples { family: self.families.family(name, help, kind), log: self.log }
    }
}

impl Samples<'_> {
    /// Adds the value of one set of labels. Whole numbers are written without a decimal point.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    /// The same, of a count.
    pub(super) fn count(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.sample(labels, value as f64)
    }

    /// Adds the buckets, sum and count of one set of labels, each unit of the histogram being one of `units`.
    pub(super) fn distribution(&mut self, labels: &[(&str, &str)], values: &Snapshot, units: u64) -> &mut Self {
        let shown = |value: u64| value as f64 / units as f64;
        for (bound, count) in &values.within {
            self.line("_bucket", labels, Some(&shown(*bound).to_string()), *count as f64);
        }
        self.line("_bucket", labels, Some("+Inf"), values.count as f64);
        self.line("_sum", labels, None, shown(values.sum));
        self.line("_count", labels, None, values.count as f64);
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: f64) {
        let text = &mut self.family.samples;
        let _ = write!(text, "{}{suffix}", self.family.name);
        let log = self.log.map(|log| ("log", log));
        let bound = bound.map(|bound| ("le", bound));
        let mut separator = '{';
        for (name, value) in log.into_iter().chain(labels.iter().copied()).chain(bound) {
            let _ = write!(text, "{separator}{name}=\"");
            value.chars().for_each(|character| match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            });
            text.push('"');
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
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
        families.of_process().counter("a_errors", "Errors").count(&[("kind", "q\"\\\n")], 2);
        families.of_process().counter("never", "Never used");
        let mut text = String::new();
        families.write(&mut text);
        let expected = "# HELP a_errors Errors\n# TYPE a_errors counter\na_errors{kind=\"q\\\"\\\\\\n\"} 2\n\
                        # HELP b_things Things\n# TYPE b_things gauge\nb_things 1.5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_several_logs_count_is_one_family_with_their_names() {
        let mut families = Families::default();
        for (log, count) in [("casper", 1), ("beacon", 2)] {
            families.of_log(log).counter("events_total", "Events").count(&[("kind", "a")], count);
        }
        families.of_process().gauge("logs", "Logs").count(&[], 2);
        let mut text = String::new();
        families.write(&mut text);
        let expected = "# HELP events_total Events\n# TYPE events_total counter\n\
                        events_total{log=\"casper\",kind=\"a\"} 1\nevents_total{log=\"beacon\",kind=\"a\"} 2\n\
                        # HELP logs Logs\n# TYPE logs gauge\nlogs 2\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_histogram_is_written_as_the_reference_writes_it() {
        let histogram = Histogram::new(&[1000, 5000]);
        histogram.observe(1500);
        histogram.observe(9000);
        let mut families = Families::default();
        families.of_process().histogram("times", "Times").distribution(
            &[("label", "/block")],
            &histogram.snapshot(),
            1000,
        );
        let mut text = String::new();
        families.write(&mut text);
        let expected = "# HELP times Times\n# TYPE times histogram\n\
                        times_bucket{label=\"/block\",le=\"1\"} 0\n\
                        times_bucket{label=\"/block\",le=\"5\"} 1\n\
                        times_bucket{label=\"/block\",le=\"+Inf\"} 2\n\
                        times_sum{label=\"/block\"} 10.5\n\
                        times_count{label=\"/block\"} 2\n";
        assert_eq!(text, expected);
    }
}
