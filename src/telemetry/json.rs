//! Log lines as JSON: one object a line, for programs that collect them.
//!
//! A line has `time`, `level`, `target`, `message` and its facts as members of their own; `spans` lists what it is about,
//! from the outside in.

use std::error::Error;
use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Names that a line has itself; a fact of such a name gets an underscore before it.
const RESERVED: [&str; 4] = ["time", "level", "target", "spans"];

/// The form of a line.
pub(super) struct JsonLine;

/// The form of facts: members of an object, without its braces.
pub(super) struct JsonFields;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str("{\"time\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\",\"target\":", event.metadata().level())?;
        write_string(&mut writer, event.metadata().target())?;
        if event.fields().next().is_some() {
            writer.write_char(',')?;
            context.format_fields(writer.by_ref(), event)?;
        }
        if let Some(scope) = context.event_scope() {
            let mut separator = ",\"spans\":[";
            for span in scope.from_root() {
                writer.write_str(separator)?;
                separator = ",";
                writer.write_char('{')?;
                write_string(&mut writer, span.name())?;
                let extensions = span.extensions();
                let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| &fields.fields);
                write!(writer, ":{{{fields}}}}}")?;
            }
            if separator == "," {
                writer.write_char(']')?;
            }
        }
        writer.write_str("}\n")
    }
}

impl<'writer> FormatFields<'writer> for JsonFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        write_members(&mut writer, "", fields)
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let separator = if current.fields.is_empty() { "" } else { "," };
        write_members(&mut current.as_writer(), separator, fields)
    }
}

fn write_members(writer: &mut Writer<'_>, separator: &'static str, fields: impl RecordFields) -> fmt::Result {
    let mut members = Members { writer, separator, result: Ok(()) };
    fields.record(&mut members);
    members.result
}

/// Writes facts as members.
struct Members<'a, 'writer> {
    writer: &'a mut Writer<'writer>,
    separator: &'static str,
    result: fmt::Result,
}

impl Members<'_, '_> {
    fn member(&mut self, field: &Field, write_value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.write_member(field.name(), write_value);
        }
    }

    fn write_member(&mut self, name: &str, write_value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) -> fmt::Result {
        self.writer.write_str(std::mem::replace(&mut self.separator, ","))?;
        let mark = if RESERVED.contains(&name) { "_" } else { "" };
        write_string(self.writer, &format!("{mark}{name}"))?;
        self.writer.write_char(':')?;
        write_value(self.writer)
    }
}

impl Visit for Members<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.member(field, |writer| write_string(writer, &format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |writer| write_string(writer, value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.member(field, |writer| write_string(writer, &value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.member(field, |writer| write!(writer, "{value}")),
            // JSON has no such number.
            false => self.record_debug(field, &value),
        }
    }
}

/// Writes `text` as a JSON string on which no terminal acts either.
fn write_string(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    let quoted = serde_json::to_string(text).map_err(|_| fmt::Error)?;
    quoted.chars().try_for_each(|character| match character.is_control() {
        true => write!(writer, "\\u{:04x}", u32::from(character)),
        false => writer.write_char(character),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tracing::{info, info_span, warn};
    use tracing_subscriber::EnvFilter;

    use super::super::{LogFormat, testing};

    fn lines(write: impl FnOnce()) -> Vec<Value> {
        let text = testing::logged(EnvFilter::new("trace"), LogFormat::Json, write);
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    #[test]
    fn a_line_is_an_object_with_the_facts_as_members_of_their_types() {
        let lines = lines(|| {
            let error = std::io::Error::other("no \"room\"");
            info!(segment = 7_u64, behind = -1, is_new = true, ratio = 0.5, name = "a\tb", %error, "segment sealed");
            warn!(time = 1, level = f64::NAN, ?error);
        });
        let [sealed, bare] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(sealed["level"], "INFO");
        assert_eq!(sealed["target"], "sidecar::telemetry::json::tests");
        assert_eq!(sealed["message"], "segment sealed");
        assert!(crate::rfc3339::parse(sealed["time"].as_str().unwrap()).is_some(), "{sealed}");
        let facts = ["segment", "behind", "is_new", "ratio", "name", "error"].map(|name| sealed[name].clone());
        assert_eq!(Value::from(facts.to_vec()), json!([7, -1, true, 0.5, "a\tb", "no \"room\""]));
        assert_eq!((&bare["_time"], &bare["_level"]), (&json!(1), &json!("NaN")), "{bare}");
    }

    #[test]
    fn a_line_within_spans_names_them_from_the_outside_in() {
        let lines = lines(|| {
            let log = info_span!("log", name = "casper", head = tracing::field::Empty);
            let _within_log = log.enter();
            log.record("head", 9);
            let _within_commit = info_span!("commit").entered();
            info!("stored");
        });
        assert_eq!(lines[0]["spans"], json!([{ "log": { "name": "casper", "head": 9 } }, { "commit": {} }]));
    }

    #[test]
    fn text_of_other_parties_stays_within_its_line_and_does_nothing_to_a_terminal() {
        let said = "a\nERROR b\r\u{1b}[31mé\u{9b}\u{7f}";
        let text = testing::logged(EnvFilter::new("trace"), LogFormat::Json, || info!(said));
        assert_eq!(text.lines().count(), 1);
        assert!(!text.trim_end().contains(char::is_control), "{text:?}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["said"], said);
    }
}
