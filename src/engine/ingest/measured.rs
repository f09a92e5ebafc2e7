//! The log's directory, measured: how many bytes go to the disk, and how long it takes until they are durable.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use sidecar_log_format::storage::{Directory, File, FileLayer, Layer, Storage};

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

impl Layer for Measured {
    fn below(&self) -> &dyn Storage {
        &self.directory
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(Storage::create(&self.directory, name)?))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let file = self.directory.open(name, write)?;
        // What is only read has nothing to measure.
        Ok(if write { self.file(file) } else { file })
    }
}

struct MeasuredFile {
    file: Arc<dyn File>,
    counters: Arc<Counters>,
}

impl FileLayer for MeasuredFile {
    fn below(&self) -> &dyn File {
        self.file.as_ref()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        self.counters.disk.written_bytes.add(bytes.len() as u64);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let begun = Instant::now();
        self.file.sync()?;
        self.counters.disk.syncs.observe_time(begun.elapsed());
        Ok(())
    }
}
