//! The TOML table of a file, with the position of everything in it.
//!
//! Keeping positions while old spellings are replaced is what lets an error about `rest_api_server.port` point at the
//! line where the operator wrote `[rest_server]`.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::{TomlError, line_at};

/// A parsed file.
pub(super) struct Document<'text> {
    pub(super) text: &'text str,
    pub(super) root: Spanned<DeTable<'text>>,
}

impl<'text> Document<'text> {
    pub(super) fn parse(text: &'text str) -> Result<Self, TomlError> {
        let root = DeTable::parse(text).map_err(|error| TomlError::new(error, text, None, None))?;
        Ok(Self { text, root })
    }

    /// The line, counted from 1, of the value at a path such as `sse_server.connections[0].sse_port`.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let mut steps = key.split(['.', '[', ']']).filter(|step| !step.is_empty());
        let first = self.root.get_ref().get(steps.next()?)?;
        let value = steps.try_fold(first, |value, step| match value.get_ref() {
            array @ DeValue::Array(_) => array.get(step.parse::<usize>().ok()?),
            table => table.get(step),
        })?;
        Some(line_at(self.text, value.span().start))
    }
}
