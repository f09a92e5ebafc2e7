//! An export that is not finished: the folder `FILE.unfinished` beside the file that it shall become.
//!
//! What is written lies in the folder beside a note of which export it is, so that it can be gone on with and with
//! nothing else. In the end the file is put in its place, whole, and the folder removed.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use sidecar_log_format::Sequence;

/// Which export it is: what must be the same when it is gone on with.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) log_id: String,
    /// In another epoch sequences may name other events.
    pub(crate) epoch: u64,
    pub(crate) format: String,
    /// As they were asked for.
    pub(crate) from: Option<Sequence>,
    pub(crate) until: Option<Sequence>,
    /// Names, in order; empty for all.
    pub(crate) types: Vec<String>,
    /// Where it really began; the oldest event may be another one by now.
    pub(crate) first_sequence: Sequence,
}

impl Identity {
    /// What tells exports apart, in an operator's words.
    fn terms(&self) -> [String; 6] {
        let option = |name: &str, value: Option<Sequence>| {
            value.map_or_else(|| format!("no {name}"), |value| format!("{name} {value}"))
        };
        [
            format!("log {}", self.log_id),
            format!("epoch {} of the log", self.epoch),
            format!("--format {}", self.format),
            option("--from", self.from),
            option("--until", self.until),
            if self.types.is_empty() { "no --types".to_owned() } else { format!("--types {}", self.types.join(",")) },
        ]
    }
}

const NOTE: &str = "export.json";

/// The folder, held by this process alone.
pub(crate) struct Unfinished {
    output: PathBuf,
    folder: PathBuf,
    pub(crate) first_sequence: Sequence,
    _lock: File,
}

impl Unfinished {
    /// Begins an export, or goes on with an interrupted one of the same identity if that is asked for and there is one.
    pub(crate) fn open(output: &Path, wanted: &Identity, resume: bool) -> anyhow::Result<Self> {
        ensure!(!fs::exists(output)?, "{} exists; give another file", output.display());
        let mut folder = output.as_os_str().to_owned();
        folder.push(".unfinished");
        let folder = PathBuf::from(folder);
        let note = folder.join(NOTE);
        match fs::create_dir(&folder) {
            Ok(()) => write_note(&note, wanted).with_context(|| format!("cannot write {}", note.display()))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                ensure!(
                    resume,
                    "an interrupted export to {} is in {}; go on with it with --resume, or remove that folder",
                    output.display(),
                    folder.display()
                );
            }
            Err(error) => return Err(error).with_context(|| format!("cannot make the folder {}", folder.display())),
        }
        let lock = File::open(&note).with_context(|| {
            format!("{} is no interrupted export, remove it: cannot open {}", folder.display(), note.display())
        })?;
        // Where a filesystem has no locks, nobody is kept out.
        ensure!(
            !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
            "another process is exporting to {}",
            output.display()
        );
        let found: Identity =
            serde_json::from_reader(&lock).with_context(|| format!("cannot read {}", note.display()))?;
        refuse_other(&found, wanted, output, &folder)?;
        Ok(Unfinished { output: output.to_owned(), folder, first_sequence: found.first_sequence, _lock: lock })
    }

    /// Where the file, or parts of it, are written.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts the file in its place.
    pub(crate) fn finish(self, made: &Path) -> anyhow::Result<()> {
        fs::rename(made, &self.output).with_context(|| format!("cannot write {}", self.output.display()))?;
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// It is there whole or not at all.
fn write_note(note: &Path, identity: &Identity) -> anyhow::Result<()> {
    let new = note.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(identity)?)?;
    File::open(&new)?.sync_all()?;
    Ok(fs::rename(new, note)?)
}

fn refuse_other(found: &Identity, wanted: &Identity, output: &Path, folder: &Path) -> anyhow::Result<()> {
    let pairs = found.terms().into_iter().zip(wanted.terms());
    let differences: Vec<_> = pairs
        .filter(|(found, wanted)| found != wanted)
        .map(|(found, wanted)| format!("it was begun with {found}, this is {wanted}"))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "the interrupted export to {} is another one: {}; ask for the same, give another file, or remove {}",
        output.display(),
        differences.join("; "),
        folder.display()
    )
}
