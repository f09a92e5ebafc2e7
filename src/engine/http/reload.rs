//! Files that may be replaced while a server runs: certificates, keys and tokens.
//!
//! Owns how they are read, and when they are read again. What they hold flows to the parts that use it. A bad new
//! file leaves the old one in use: a mistake while certificates are renewed must not shut clients out.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often the files are looked at. They are used once two looks in a row found them the same.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the file {}: {reason}", file.display())]
pub struct UnusableFile {
    file: PathBuf,
    /// What is wrong, and what to do. It quotes nothing of the file.
    reason: String,
}

impl UnusableFile {
    pub(super) fn new(file: &Path, reason: impl Into<String>) -> Self {
        UnusableFile { file: file.to_owned(), reason: reason.into() }
    }
}

/// Makes use of what files hold, in the order of their paths.
type Make<T> = dyn Fn(&[Vec<u8>]) -> Result<T, UnusableFile> + Send + Sync;

/// What was made of files, and the means to make it again.
pub(super) struct Reloading<T> {
    files: Arc<[PathBuf]>,
    make: Box<Make<T>>,
    /// Of the contents in use, or refused.
    known: blake3::Hash,
    current: watch::Sender<Arc<T>>,
}

impl<T> Reloading<T> {
    /// Reads `files` and makes use of them.
    pub(super) fn load(
        files: impl Into<Arc<[PathBuf]>>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, UnusableFile> + Send + Sync + 'static,
    ) -> Result<Self, UnusableFile> {
        let files = files.into();
        let contents = read_all(&files);
        let known = fingerprint(&contents);
        let current = watch::Sender::new(Arc::new(make(&contents?)?));
        Ok(Reloading { files, make: Box::new(make), known, current })
    }

    /// What is in use at any time.
    pub(super) fn current(&self) -> Current<T> {
        Current(self.current.subscribe())
    }

    /// Reads the files again whenever they change, and immediately on SIGHUP. It runs until its caller drops it.
    pub(super) async fn follow(mut self) -> Infallible {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        let mut hangups = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened for; changed files are still found"))
            .ok();
        let mut settling = self.known;
        loop {
            let is_asked_for = tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
                Some(()) = async { hangups.as_mut()?.recv().await } => true,
            };
            let files = Arc::clone(&self.files);
            let Ok(contents) = tokio::task::spawn_blocking(move || read_all(&files)).await else { continue };
            let found = fingerprint(&contents);
            // One that was seen only once may be half written, or the other file of the two may follow. A SIGHUP means that
            // the files are complete.
            let is_settled = std::mem::replace(&mut settling, found) == found || is_asked_for;
            if found != self.known && is_settled {
                self.known = found;
                self.replace(contents);
            }
        }
    }

    fn replace(&self, contents: Result<Vec<Vec<u8>>, UnusableFile>) {
        let files = &self.files;
        match contents.and_then(|contents| (self.make)(&contents)) {
            Ok(made) => {
                self.current.send_replace(Arc::new(made));
                tracing::info!(?files, "changed files are in use");
            }
            Err(error) => tracing::warn!(%error, "changed files cannot be used; what they held before stays in use"),
        }
    }
}

/// What is in use now.
#[derive(Clone)]
pub(super) struct Current<T>(watch::Receiver<Arc<T>>);

impl<T> Current<T> {
    pub(super) fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, UnusableFile> {
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<Vec<u8>, UnusableFile> {
    let mut content = Vec::new();
    let read = File::open(file).and_then(|open| open.take(FILE_BYTES_MAX + 1).read_to_end(&mut content));
    match read {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => {
            Err(UnusableFile::new(file, format!("it is larger than {FILE_BYTES_MAX} bytes; name another file")))
        }
        Ok(_) => Ok(content),
        Err(error) => {
            let fix = "let the user that runs Sidecar read it, or name another file";
            Err(UnusableFile::new(file, format!("{error}; {fix}")))
        }
    }
}

/// Warns about a file with a secret that every user of the machine may read.
pub(super) fn warn_if_public(file: &Path) {
    let mode = std::fs::metadata(file).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o004 != 0) {
        tracing::warn!(file = %file.display(), "a secret file is readable by every user; take that right away with chmod o-r");
    }
}

fn fingerprint(contents: &Result<Vec<Vec<u8>>, UnusableFile>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    match contents {
        Ok(contents) => {
            for content in contents {
                hasher.update(&(content.len() as u64).to_le_bytes()).update(content);
            }
        }
        Err(error) => _ = hasher.update(error.to_string().as_bytes()),
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a number.
    fn number(contents: &[Vec<u8>]) -> Result<u32, UnusableFile> {
        let text = String::from_utf8_lossy(&contents[0]);
        text.parse().map_err(|_| UnusableFile::new(Path::new("number"), "it is not a number"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_used_once_it_rests_and_a_bad_one_never_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        std::fs::write(&file, "1").unwrap();
        let reloading = Reloading::load([file.clone()], number).unwrap();
        let current = reloading.current();
        let mut changes = reloading.current.subscribe();
        tokio::spawn(reloading.follow());
        assert_eq!(*current.get(), 1);
        std::fs::write(&file, "2").unwrap();
        changes.changed().await.unwrap();
        assert_eq!(*current.get(), 2);
        for bad in [Some("two"), Some(""), None] {
            match bad {
                Some(bad) => std::fs::write(&file, bad).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            assert!(tokio::time::timeout(10 * LOOK_INTERVAL, changes.changed()).await.is_err());
            assert_eq!(*current.get(), 2);
        }
        std::fs::write(&file, "3").unwrap();
        changes.changed().await.unwrap();
        assert_eq!(*current.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hangup_has_changed_files_read_at_once() {
        // While a thread works, the paused clock does not advance, so only the signal can cause a read.
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let clock = tokio::task::spawn_blocking(move || ended.recv());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        std::fs::write(&file, "1").unwrap();
        let reloading = Reloading::load([file.clone()], number).unwrap();
        let mut changes = reloading.current.subscribe();
        let following = tokio::spawn(reloading.follow());
        // Now it listens.
        tokio::task::yield_now().await;
        std::fs::write(&file, "2").unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        changes.changed().await.unwrap();
        assert_eq!(**changes.borrow(), 2);
        following.abort();
        drop(end);
        assert!(clock.await.unwrap().is_err());
    }

    #[test]
    fn a_file_that_is_too_large_or_missing_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        let refusal = |file: &PathBuf| Reloading::load([file.clone()], number).err().unwrap().to_string();
        let missing = refusal(&file);
        assert!(missing.contains(file.to_str().unwrap()) && missing.contains("No such file"), "{missing}");
        std::fs::write(&file, vec![b'1'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(refusal(&file).contains("larger than 1048576 bytes"));
    }
}
