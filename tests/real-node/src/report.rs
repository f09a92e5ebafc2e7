//! What was tried, and what came of it.

use std::fmt;

use anyhow::Result;

/// Every subject, in the order in which it was first tried.
#[derive(Default)]
pub(crate) struct Report(Vec<Subject>);

struct Subject {
    name: String,
    tried: u32,
    failures: Vec<String>,
}

impl Report {
    /// Notes the outcome of a case; prints it at once where it failed.
    pub(crate) fn note(&mut self, subject: &str, case: &str, outcome: Result<()>) {
        let at = self.0.iter().position(|known| known.name == subject).unwrap_or_else(|| {
            self.0.push(Subject { name: subject.to_owned(), tried: 0, failures: Vec::new() });
            self.0.len() - 1
        });
        self.0[at].tried += 1;
        if let Err(error) = outcome {
            eprintln!("FAILED {subject}, {case}: {error:#}");
            self.0[at].failures.push(format!("{case}: {error:#}"));
        }
    }

    /// Whether this subject was tried.
    pub(crate) fn has_tried(&self, subject: &str) -> bool {
        self.0.iter().any(|known| known.name == subject)
    }

    pub(crate) fn has_failures(&self) -> bool {
        self.0.iter().any(|subject| !subject.failures.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "| subject | tried | passed |\n|---|---:|---:|")?;
        for Subject { name, tried, failures } in &self.0 {
            writeln!(formatter, "| {name} | {tried} | {} |", *tried as usize - failures.len())?;
        }
        for Subject { name, failures, .. } in &self.0 {
            for failure in failures {
                writeln!(formatter, "\nFAILED {name}, {failure}")?;
            }
        }
        Ok(())
    }
}
