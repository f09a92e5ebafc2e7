//! The TOML table of a file, with the position of everything in it.
//!
//! Keeping positions while old spellings are replaced is what lets an error about `rest_api_server.port` point at the
//! line where the operator wrote `[rest_server]`.

use std::borrow::Cow;

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::error::{NotConstructed, TomlError, line_at};

/// A parsed file.
pub(super) struct Document<'text> {
    pub(super) text: &'text str,
    pub(super) root: Spanned<DeTable<'text>>,
    /// The old spellings that were replaced.
    pub(super) respelled: Vec<Respelled>,
}

/// An old spelling of a key or section.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Respelled {
    /// The full path of the old spelling.
    pub(super) old: &'static str,
    /// Its line, counted from 1.
    pub(super) line: usize,
    /// The full path of the new spelling.
    pub(super) new: String,
}

impl<'text> Document<'text> {
    pub(super) fn parse(text: &'text str) -> Result<Self, TomlError> {
        let root = DeTable::parse(text).map_err(|error| TomlError::new(error, text, None, None))?;
        Ok(Self { text, root, respelled: Vec::new() })
    }

    /// The value at a path such as `sse_server.connections[0].sse_port`.
    pub(super) fn value(&self, path: &str) -> Option<&Spanned<DeValue<'text>>> {
        let mut steps = path.split(['.', '[', ']']).filter(|step| !step.is_empty());
        let first = self.root.get_ref().get(steps.next()?)?;
        steps.try_fold(first, |value, step| match value.get_ref() {
            array @ DeValue::Array(_) => array.get(step.parse::<usize>().ok()?),
            table => table.get(step),
        })
    }

    /// The line, counted from 1, of the value at `path`.
    pub(super) fn line_of(&self, path: &str) -> Option<usize> {
        Some(line_at(self.text, self.value(path)?.span().start))
    }
}

/// The key `name`, at the position of `value`.
pub(super) fn key_at<'text>(name: &str, value: &Spanned<DeValue<'text>>) -> Spanned<DeString<'text>> {
    Spanned::new(value.span(), Cow::Owned(name.to_owned()))
}

/// Calls `visit` with the table at `path` below `table`, or with each of them where `path` leads through an array.
pub(super) fn for_each_table<'text>(
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
