//! The log's directory, measured: how many bytes go to the disk, and how long it takes until they are durable.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use sidecar_log_format::storage::{Directory, File, Lock, Storage};

use super::counters::Counters;

/// A directory that counts.
pub(super) struct Measured {
    directory: Directory,
    counters: Arc<Counters>,
}

impl Measured {
    pub(super) fn new(directory: Directory, counters: Arc<Counters>) -> Self {
        Measured { directory, counters }
    }

    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(MeasuredFile { file, counters: Arc::clone(&self.counters) })
    }
}

impl Storage for Measured {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.directory.create(name)?))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let file = self.directory.open(name, write)?;
        // What is only read has nothing to measure.
        Ok(if write { self.file(file) } else { file })
    }

    fn identity(&self, name: &str) -> io::Result<u64> {
        self.directory.identity(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_directory()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>> {
        self.directory.lock()
    }

    fn free_space(&self) -> io::Result<u64> {
        self.directory.free_space()
    }

    fn name(&self) -> String {
        self.directory.name()
    }
}

struct MeasuredFile {
    file: Arc<dyn File>,
    counters: Arc<Counters>,
}

impl File for MeasuredFile {
    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_some_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        self.counters.disk.written_bytes.add(bytes.len() as u64);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let begun = Instant::now();
        self.file.sync()?;
        let microseconds = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.disk.syncs.observe(microseconds);
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.allocate(offset, length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn identity(&self) -> io::Result<u64> {
        self.file.identity()
    }
}
