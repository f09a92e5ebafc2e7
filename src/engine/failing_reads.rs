//! For tests: a log on a disk of which reads fail.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use sidecar_log_format::{
    ApiVersion, Event, Kind, Log, Opened, ReadOptions, WriteOptions, Writer,
    storage::{Directory, File, FileLayer, Layer, Storage},
};

/// The system's number of an input/output error.
const EIO: i32 = 5;

/// Which reads fail.
#[derive(Clone, Default)]
pub(crate) struct FailingReads(Arc<Failing>);

#[derive(Default)]
struct Failing {
    all: AtomicBool,
    /// How many reads go on to the one that fails; 0 when none does.
    to_one: AtomicU64,
    /// Held by a test while reads hang.
    hanging: Mutex<()>,
}

/// Lets reads hang while it lives.
pub(crate) struct Hanging<'a>(#[expect(dead_code, reason = "it is held for its end")] MutexGuard<'a, ()>);

impl FailingReads {
    /// The read after the next `reads` fails, when it is tried again too, and those after it go well again.
    pub(crate) fn fail_after(&self, reads: u64) {
        self.0.to_one.store(reads.saturating_add(2), Ordering::Relaxed);
    }

    /// All reads fail from now on, or go well again.
    pub(crate) fn fail(&self, all: bool) {
        self.0.all.store(all, Ordering::Relaxed);
    }

    /// Reads do not return until the guard is gone.
    pub(crate) fn hang(&self) -> Hanging<'_> {
        Hanging(self.0.hanging.lock().unwrap())
    }

    fn read(&self) -> io::Result<()> {
        drop(self.0.hanging.lock().unwrap());
        let before = self.0.to_one.load(Ordering::Relaxed);
        self.0.to_one.store(before.saturating_sub(1), Ordering::Relaxed);
        if matches!(before, 1 | 2) || self.0.all.load(Ordering::Relaxed) {
            Err(io::Error::from_raw_os_error(EIO))
        } else {
            Ok(())
        }
    }
}

/// A log in `folder` whose only event is too large for a shared block.
pub(crate) fn log_with_a_large_event(folder: &Path) -> (Log, FailingReads) {
    log_of_blocks(folder, &[3 << 20])
}

/// A log in `folder` of blocks from height 1 on, each with so many bytes and some more.
pub(crate) fn log_of_blocks(folder: &Path, bytes: &[usize]) -> (Log, FailingReads) {
    let directory = Directory::create(folder).unwrap();
    let options = WriteOptions::new("casper", [1; 16], 1);
    let Opened { mut writer, .. } = Writer::open(Arc::new(directory.clone()), options).unwrap();
    for (height, bytes) in (1..).zip(bytes) {
        let filler = "x".repeat(*bytes);
        let header = format!(r#"{{"Version2":{{"header":{{"height":{height}}}}}}}"#);
        let payload = format!(r#"{{"BlockAdded":{{"block_hash":"00","block":{header},"filler":"{filler}"}}}}"#);
        let event = Event {
            kind: Kind(1),
            name: "",
            source: "10.0.0.1:9999",
            network: "casper-test",
            api_version: ApiVersion { major: 2, minor: 0, patch: 0 },
            upstream_id: Some(7),
            received: 1,
            payload: &payload,
        };
        writer.append(&event).unwrap();
    }
    writer.commit().unwrap();
    let (open, reads) = over_failing_reads(folder);
    (open(), reads)
}

/// Opens the log in `folder` each time from such a disk, with nothing in memory.
pub(crate) fn over_failing_reads(folder: &Path) -> (impl Fn() -> Log, FailingReads) {
    let reads = FailingReads::default();
    let disk = Disk { directory: Directory::at(folder), reads: reads.clone() };
    let open = move || Log::open(Arc::new(disk.clone()), ReadOptions::default()).unwrap();
    (open, reads)
}

#[derive(Clone)]
struct Disk {
    directory: Directory,
    reads: FailingReads,
}

impl Disk {
    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(DiskFile { file, reads: self.reads.clone() })
    }
}

impl Layer for Disk {
    fn below(&self) -> &dyn Storage {
        &self.directory
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(Storage::create(&self.directory, name)?))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.directory.open(name, write)?))
    }
}

struct DiskFile {
    file: Arc<dyn File>,
    reads: FailingReads,
}

impl FileLayer for DiskFile {
    fn below(&self) -> &dyn File {
        self.file.as_ref()
    }

    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.read()?;
        self.file.read_some_at(buffer, offset)
    }
}
