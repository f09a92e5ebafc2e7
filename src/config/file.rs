//! From the TOML table to the structs of [`sections`](super::sections): missing keys, wrong types, unknown keys.

use serde_ignored::Path;
use toml::de::Deserializer;

use super::{
    catalogue,
    document::Document,
    error::{TomlError, Warning},
    sections::File,
};

/// Fits the table into the structs; every key that has no place there is a warning.
pub(super) fn read(document: &Document<'_>) -> Result<(File, Vec<Warning>), TomlError> {
    let mut unknown_keys = Vec::new();
    let mut remember = |path: Path<'_>| unknown_keys.push(dotted(&path));
    let deserializer = Deserializer::from(document.root.clone());
    let deserializer = serde_ignored::Deserializer::new(deserializer, &mut remember);
    let file: File = match serde_path_to_error::deserialize(deserializer) {
        Ok(file) => file,
        Err(error) => {
            let section = Some(error.path().to_string()).filter(|path| path != ".");
            let error = error.into_inner();
            let misspelled = misspelled(document, error.message(), section.as_deref(), &unknown_keys);
            return Err(TomlError::new(error, document.text, section.as_deref(), misspelled.as_ref()));
        }
    };
    Ok((file, unknown_keys.into_iter().map(|key| unknown(document, key)).collect()))
}

fn unknown(document: &Document<'_>, key: String) -> Warning {
    Warning::UnknownKey { line: document.line_of(&key), nearest: catalogue::nearest(&key), key }
}

/// The unknown key that was meant for the required one which the deserializer misses in `section`.
fn misspelled(
    document: &Document<'_>,
    message: &str,
    section: Option<&str>,
    unknown_keys: &[String],
) -> Option<Warning> {
    let missing = message.strip_prefix("missing field `")?.strip_suffix('`')?;
    let section = section.map(|section| format!("{section}.")).unwrap_or_default();
    let missing = catalogue::without_indices(&format!("{section}{missing}"));
    let is_meant = |unknown: &&String| catalogue::nearest(unknown) == missing;
    unknown_keys.iter().find(is_meant).map(|key| unknown(document, key.clone()))
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
