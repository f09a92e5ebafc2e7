//! An export that is not finished: the folder `FILE.unfinished` beside the file that it will become.
//!
//! What is written is in the folder beside a note of which export it is, so that this export and no other can be
//! continued with it. In the end the file is put in its place, whole, and the folder removed.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use sidecar_log_format::Sequence;

/// Which export it is: what must be the same when it is continued.
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
/// The note while it is written.
const NEW_NOTE: &str = "export.new";

/// The folder, held by this process alone.
pub(crate) struct Unfinished {
    output: PathBuf,
    folder: PathBuf,
    pub(crate) first_sequence: Sequence,
    /// Whether the file is in its place already, and only the folder was left.
    pub(crate) is_in_place: bool,
    _lock: File,
}

impl Unfinished {
    /// Begins an export, or continues an interrupted one of the same identity if that is asked for and there is one.
    pub(crate) fn open(output: &Path, wanted: &Identity, resume: bool) -> anyhow::Result<Self> {
        let mut folder = output.as_os_str().to_owned();
        folder.push(".unfinished");
        let folder = PathBuf::from(folder);
        let is_in_place = resume && holds(&folder, output)?;
        ensure!(is_in_place || !fs::exists(output)?, "{} exists; give another file", output.display());
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make the folder {}", folder.display()));
            }
            _ => {}
        }
        let lock = File::open(&folder).with_context(|| format!("cannot open {}", folder.display()))?;
        // Where a filesystem has no locks, another process is not kept out.
        ensure!(
            !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
            "another process is exporting to {}",
            output.display()
        );
        let note = folder.join(NOTE);
        if fs::exists(&note)? {
            ensure!(
                resume,
                "an interrupted export to {} is in {}; continue it with --resume, or remove that folder",
                output.display(),
                folder.display()
            );
        } else {
            // New, or stopped before it had its note.
            let is_begun = fs::read_dir(&folder)?.all(|entry| entry.is_ok_and(|entry| entry.file_name() == NEW_NOTE));
            ensure!(is_begun, "{} is not an interrupted export; remove it, or give another file", folder.display());
            write_note(&folder, wanted).with_context(|| format!("cannot write {}", note.display()))?;
        }
        let found = fs::read(&note).with_context(|| format!("cannot read {}", note.display()))?;
        let found: Identity =
            serde_json::from_slice(&found).with_context(|| format!("cannot read {}", note.display()))?;
        refuse_other(&found, wanted, output, &folder)?;
        Ok(Unfinished {
            output: output.to_owned(),
            folder,
            first_sequence: found.first_sequence,
            is_in_place,
            _lock: lock,
        })
    }

    /// Where the file, or parts of it, are written.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts the file in its place, unless another one has come there meanwhile.
    pub(crate) fn put_in_place(&self, made: &Path) -> anyhow::Result<()> {
        let output = self.output.display();
        match fs::hard_link(made, &self.output) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !fs::exists(&self.output)? => {
                // Not every filesystem has links.
                fs::rename(made, &self.output).with_context(|| format!("cannot write {output}"))
            }
            linked => linked.with_context(|| {
                format!("{output} came there meanwhile; move it away and finish this export with --resume")
            }),
        }
    }

    /// Removes the folder, once the disk has the file.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        let around = self.folder.parent().filter(|around| !around.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_folder(around)?;
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// Whether `output` is a file of the folder: a stop came between the file's last step and the folder's.
fn holds(folder: &Path, output: &Path) -> io::Result<bool> {
    let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let Some(wanted) = inode(output) else { return Ok(false) };
    let Ok(mut entries) = fs::read_dir(folder) else { return Ok(false) };
    entries.try_fold(false, |holds, entry| Ok(holds || inode(&entry?.path()) == Some(wanted)))
}

/// Makes the disk keep what was made in a folder.
pub(crate) fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("cannot sync {}", folder.display()))
}

/// It is there whole or not at all.
fn write_note(folder: &Path, identity: &Identity) -> anyhow::Result<()> {
    let new = folder.join(NEW_NOTE);
    fs::write(&new, serde_json::to_vec_pretty(identity)?)?;
    File::open(&new)?.sync_all()?;
    fs::rename(new, folder.join(NOTE))?;
    sync_folder(folder)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_came_meanwhile_is_not_replaced() {
        let around = tempfile::tempdir().unwrap();
        let output = around.path().join("file");
        let identity = Identity {
            log_id: "ab".to_owned(),
            epoch: 1,
            format: "jsonl".to_owned(),
            from: None,
            until: None,
            types: Vec::new(),
            first_sequence: 0,
        };
        let unfinished = Unfinished::open(&output, &identity, false).unwrap();
        let made = unfinished.folder().join("made");
        fs::write(&made, "events").unwrap();
        fs::write(&output, "somebody else's").unwrap();
        let refused = unfinished.put_in_place(&made).unwrap_err().to_string();
        assert!(refused.contains("move it away and finish this export with --resume"), "{refused}");
        assert_eq!(fs::read_to_string(&output).unwrap(), "somebody else's");

        fs::remove_file(&output).unwrap();
        unfinished.put_in_place(&made).unwrap();
        unfinished.remove().unwrap();
        assert_eq!(fs::read_to_string(&output).unwrap(), "events");
        assert_eq!(fs::read_dir(around.path()).unwrap().count(), 1);
    }
}
