//! Lines for a standard stream, written by a thread of their own: a closed, full or unread stream blocks no part of Sidecar.
//!
//! Owns the lines that are not written yet, up to [`PENDING_BYTES_MAX`] of them. A line is whole when it comes in and is
//! copied once. Lines beyond the bound are dropped and counted, and so are those that the system refuses to take.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;

/// Lines that wait to be written, in bytes: some 10,000 of them, and a second of a burst.
const PENDING_BYTES_MAX: usize = 1 << 20;
/// Buffers are given back down to this size after a burst.
const KEPT_BYTES: usize = 16 << 10;
/// How long the end of the process waits for a stream that does not take its last lines.
const LAST_LINES_TIME_MAX: Duration = Duration::from_secs(1);
/// Pause before a stream that does not block is tried again when it is full.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// A standard stream that takes lines and never fails, blocks or panics.
#[derive(Clone, Debug)]
pub struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when lines come in.
    filled: Condvar,
    /// Notified when everything that came in has been dealt with.
    drained: Condvar,
    lines_dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    pending: Vec<u8>,
    is_writing: bool,
}

impl Output {
    /// Starts the thread that writes to `stream`.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor for it.
    pub fn start(stream: impl AsFd) -> io::Result<Self> {
        // Unbuffered: the standard library's buffer keeps what could not be written, and tries it again forever.
        let stream = File::from(stream.as_fd().try_clone_to_owned()?);
        let shared = Arc::<Shared>::default();
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("output".to_owned()).spawn(move || writer.write_to(stream))?;
        Ok(Output { shared })
    }

    /// Writes `lines`, whole ones, when their turn comes; drops them when too many wait already.
    pub fn write_lines(&self, lines: &[u8]) {
        let mut queue = self.shared.queue();
        if queue.pending.len() + lines.len() > PENDING_BYTES_MAX {
            drop(queue);
            self.shared.count_dropped(lines);
            return;
        }
        queue.pending.extend_from_slice(lines);
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// How many lines were never written.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.shared.lines_dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, but not long for a stream that takes nothing.
    pub fn finish(&self) {
        let queue = self.shared.queue();
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.pending.is_empty();
        // What is left after that time is not written.
        let _ = self.shared.drained.wait_timeout_while(queue, LAST_LINES_TIME_MAX, is_busy);
    }
}

/// Each call is taken for whole lines.
impl Write for Output {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.write_lines(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self, lines: &[u8]) {
        self.lines_dropped.fetch_add(memchr::memchr_iter(b'\n', lines).count() as u64, Ordering::Relaxed);
    }

    fn write_to(&self, mut stream: File) {
        let mut lines = Vec::new();
        let mut dropped_reported = 0;
        let mut ends_within_line = false;
        loop {
            self.next_lines(&mut lines);
            if ends_within_line {
                ends_within_line = write_as_far_as_possible(&mut stream, b"\n") == 0;
            }
            let written = if ends_within_line { 0 } else { write_as_far_as_possible(&mut stream, &lines) };
            let (taken, refused) = lines.split_at_checked(written).unwrap_or((&lines, &[]));
            ends_within_line = taken.last().map_or(ends_within_line, |last| *last != b'\n');
            self.count_dropped(refused);
            let dropped = self.lines_dropped.load(Ordering::Relaxed);
            if refused.is_empty() && dropped > dropped_reported {
                let lines = dropped - dropped_reported;
                warn!(lines, "log lines were dropped because the output did not take them; check what reads it");
                dropped_reported = dropped;
            }
        }
    }

    /// Waits for lines and replaces those in `lines` by them, which have been dealt with.
    fn next_lines(&self, lines: &mut Vec<u8>) {
        lines.clear();
        lines.shrink_to(KEPT_BYTES);
        let mut queue = self.queue();
        queue.is_writing = false;
        if queue.pending.is_empty() {
            self.drained.notify_all();
        }
        let is_idle = |queue: &mut Queue| queue.pending.is_empty();
        let mut queue = self.filled.wait_while(queue, is_idle).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.pending, lines);
        queue.is_writing = true;
    }
}

/// Writes until the stream fails; returns how many bytes it took.
fn write_as_far_as_possible(stream: &mut impl Write, lines: &[u8]) -> usize {
    let mut written = 0;
    while let Some(left) = lines.get(written..).filter(|left| !left.is_empty()) {
        match stream.write(left) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A pipe or terminal that another process has set so; it will be read.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use super::*;

    #[test]
    fn lines_arrive_in_order_and_all_are_there_after_the_end() {
        let (reader, writer) = pipe().unwrap();
        let output = Output::start(&writer).unwrap();
        drop(writer);
        for number in 0..1_000 {
            output.write_lines(format!("line {number}\n").as_bytes());
        }
        output.finish();
        let lines = BufReader::new(reader).lines().map_while(Result::ok).take(1_000);
        assert!(lines.eq((0..1_000).map(|number| format!("line {number}"))));
        assert_eq!(output.lines_dropped(), 0);
    }

    #[test]
    fn a_stream_that_is_not_read_costs_lines_and_no_more() {
        let (reader, writer) = pipe().unwrap();
        let output = Output::start(&writer).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let lines = 4 * PENDING_BYTES_MAX / line.len();
        for _ in 0..lines {
            output.write_lines(&line);
        }
        assert!(output.lines_dropped() as usize >= lines / 4, "{} of {lines}", output.lines_dropped());
        output.finish();
        // The lines that were kept arrive once the stream is read, each line whole.
        let kept = lines - output.lines_dropped() as usize;
        assert!(kept > 0);
        let mut read = BufReader::new(reader).split(b'\n').map(Result::unwrap);
        assert_eq!(read.by_ref().take(kept).filter(|read| *read == line[..1023]).count(), kept);
        output.write_lines(b"next\n");
        assert_eq!(read.next().unwrap(), b"next", "no more than that was kept");
    }

    #[test]
    fn a_stream_without_a_reader_drops_every_line() {
        let (reader, writer) = pipe().unwrap();
        let output = Output::start(&writer).unwrap();
        drop(reader);
        output.write_lines(b"one\ntwo\n");
        output.finish();
        assert_eq!(output.lines_dropped(), 2);
    }

    /// Takes so many bytes at a time, refuses once in between, and would block now and then.
    struct Unsteady {
        taken: Vec<u8>,
        answers: Vec<io::Result<usize>>,
    }

    impl Write for Unsteady {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.answers.pop().unwrap_or(Ok(bytes.len()))?;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stream_that_takes_a_part_is_given_the_rest_until_it_fails() {
        let answers = vec![Err(ErrorKind::StorageFull.into()), Ok(3), Err(ErrorKind::WouldBlock.into()), Ok(2)];
        let mut stream = Unsteady { taken: Vec::new(), answers };
        assert_eq!(write_as_far_as_possible(&mut stream, b"a line\n"), 5);
        assert_eq!(stream.taken, b"a lin");
        assert_eq!(write_as_far_as_possible(&mut stream, b"another\n"), 8);
    }
}
