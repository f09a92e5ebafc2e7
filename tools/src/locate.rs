//! Finding the log that somebody means by a path.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use sidecar::engine::storage_folder::{IMPORTING, is_log, logs_directory};

/// The log's directory: `path` itself, or the one log under `path/logs`.
pub(crate) fn log_directory(path: &Path) -> anyhow::Result<PathBuf> {
    if is_log(path).with_context(|| format!("cannot read {}", path.display()))? {
        return Ok(path.to_owned());
    }
    let mut logs = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir(logs_directory(path)).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == IMPORTING) {
            continue;
        }
        let place = if is_log(&entry.path()).unwrap_or(false) { &mut logs } else { &mut others };
        place.push(entry.path());
    }
    logs.sort();
    others.sort();
    match logs.as_slice() {
        [log] => Ok(log.clone()),
        [] if others.is_empty() => bail!(
            "{0} is not a log: it holds no *.segment file; give the directory that does, such as <storage_path>/logs/casper, or a storage path with a log under {0}/logs",
            path.display()
        ),
        [] => bail!("{} holds no log: there is no *.segment file in {}", path.display(), list(&others)),
        logs => bail!("{} holds {} logs, name one of them: {}", path.display(), logs.len(), list(logs)),
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
