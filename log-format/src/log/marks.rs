//! Reading a log's marks.

use std::sync::Arc;

use super::reader::Log;
use crate::{Mark, Result, Sequence};

impl Log {
    /// All marks from position `from` on, in order, as far as they can be read: those of a damaged block or segment are
    /// left out.
    ///
    /// # Errors
    /// What the storage answers.
    pub fn marks(&self, from: Sequence) -> Result<Vec<Mark>> {
        let (sealed, active) = {
            let segments = self.shared.read_segments();
            let start = segments.sealed.range(..=from).next_back().copied().unwrap_or_default();
            let sealed: Vec<_> = segments.sealed.range(start..).copied().collect();
            (sealed, segments.active.as_ref().map(|active| (Arc::clone(&active.file), active.marks.clone())))
        };
        let mut marks = Vec::new();
        for first in sealed {
            let segment = match self.shared.open_sealed(first) {
                // Retention was faster.
                Err(error) if error.is_gone() => continue,
                // One bad header must not hide the marks of all other segments.
                Err(error) if error.is_damage() => continue,
                segment => segment?,
            };
            marks.append(&mut segment.file.all_marks(&segment.footer)?);
        }
        if let Some((file, entries)) = active {
            file.read_marks(&entries, &mut marks)?;
        }
        marks.retain(|mark| mark.position >= from);
        Ok(marks)
    }
}
