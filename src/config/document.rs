//! The TOML table of a file, with the position of everything in it.
//!
//! Keeping positions while old spellings are replaced is what lets an error about `rest_api_server.port` point at the
//! line where the operator wrote `[rest_server]`.

use serde_ignored::Path;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{
    error::{TomlError, Warning, line_at},
    file::File,
    known_keys,
};

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

    /// Fits the table into the structs of [`File`]; every key that has no place there is a warning.
    pub(super) fn read(&self) -> Result<(File, Vec<Warning>), TomlError> {
        let mut unknown_keys = Vec::new();
        let mut remember = |path: Path<'_>| unknown_keys.push(dotted(&path));
        let deserializer = Deserializer::from(self.root.clone());
        let deserializer = serde_ignored::Deserializer::new(deserializer, &mut remember);
        let file: File = match serde_path_to_error::deserialize(deserializer) {
            Ok(file) => file,
            Err(error) => {
                let section = Some(error.path().to_string()).filter(|path| path != ".");
                let error = error.into_inner();
                let misspelled = self.misspelled(error.message(), section.as_deref(), &unknown_keys);
                return Err(TomlError::new(error, self.text, section.as_deref(), misspelled.as_ref()));
            }
        };
        Ok((file, unknown_keys.into_iter().map(|key| self.unknown(key)).collect()))
    }

    fn unknown(&self, key: String) -> Warning {
        Warning::UnknownKey { line: self.line_of(&key), nearest: known_keys::nearest(&key), key }
    }

    /// The unknown key that was meant for the required one which the deserializer misses in `section`.
    fn misspelled(&self, message: &str, section: Option<&str>, unknown_keys: &[String]) -> Option<Warning> {
        let missing = message.strip_prefix("missing field `")?.strip_suffix('`')?;
        let section = section.map(|section| format!("{section}.")).unwrap_or_default();
        let missing = known_keys::without_indices(&format!("{section}{missing}"));
        let is_meant = |unknown: &&String| known_keys::nearest(unknown) == missing;
        unknown_keys.iter().find(is_meant).map(|key| self.unknown(key.clone()))
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

/// `sse_server.connections[0].sse_port`, the form in which `serde_path_to_error` writes a path.
fn dotted(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => match dotted(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => dotted(parent),
    }
}
