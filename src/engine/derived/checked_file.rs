//! The checked file: what redb stores, with a checksum over every page that is checked at every read.
//!
//! redb verifies its own checksums only when it repairs a file. In between, a wrong byte makes it panic, or hides a key:
//! then a stored event looks new. So every page goes through here on its way to the file and back, and a page that is not
//! what was written is an I/O error. Pages flow through without a copy.
//!
//! ```text
//! page 0       8 bytes magic | the first 496 bytes of redb's page 0 (its header) | 4 bytes checksum | 4 zero
//! then groups  1 page of 1,024 checksums, 4 bytes each, little-endian | the 1,024 pages that they check
//! ```
//!
//! * **A checksum** is the CRC-32 of a page, begun with the page's number, so that a page in a wrong place shows too. 0
//!   represents a page that was never written.
//! * **Checksums reach the file when redb syncs**, before the sync. redb never overwrites a page of its last durable commit,
//!   so after a crash only pages that nothing refers to can differ from theirs.
//! * **redb's header is overwritten in place**, so its checksum is in the same sector and is written by the same call.
//! * The checksums of the whole file are in memory: a thousandth of its size.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use redb::{BackendError, StorageBackend};

const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;
const GROUP_PAGES: usize = PAGE / size_of::<u32>();
/// A group's pages, and the one with their checksums.
const GROUP_STRIDE: u64 = GROUP_PAGES as u64 + 1;

const MAGIC: [u8; 8] = *b"SIDECRC\x01";
/// What a file begins with that redb wrote without this layer.
const REDB_MAGIC: [u8; 8] = *b"redb\x1a\n\xa9\r";
const SECTOR: usize = 512;
/// What is kept of redb's page 0, which uses fewer bytes of it.
const HEADER: usize = SECTOR - MAGIC.len() - 8;

/// The first thing that was found wrong with a file; shared with the caller that opened it.
pub(super) type Damage = Arc<OnceLock<String>>;

/// Storage for redb in `inner`; see the module's description.
#[derive(Debug)]
pub(super) struct CheckedFile<B> {
    inner: B,
    groups: RwLock<Vec<Group>>,
    header: Mutex<[u8; HEADER]>,
    damage: Damage,
}

/// The checksums of a group of pages.
#[derive(Debug)]
struct Group {
    checksums: Box<[AtomicU32]>,
    /// Whether the file has others.
    is_dirty: AtomicBool,
}

/// Why a file is not opened.
#[derive(Debug)]
pub(super) enum Rejected {
    /// It was written by redb alone, as earlier versions did.
    WithoutChecksums,
    /// What it begins with is damaged.
    Damaged(String),
    /// It cannot be read.
    Io(io::Error),
}

impl From<io::Error> for Rejected {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<B: StorageBackend> CheckedFile<B> {
    /// Over storage that is empty or was written by this layer. Takes no lock: redb does, right after.
    pub(super) fn open(inner: B, damage: Damage) -> Result<Self, Rejected> {
        let bytes = inner.len()?;
        let mut header = [0; HEADER];
        let mut groups = Vec::new();
        if bytes > 0 {
            let mut sector = [0; SECTOR];
            let read = usize::try_from(bytes).unwrap_or(SECTOR).min(SECTOR);
            inner.read(0, sector.get_mut(..read).unwrap_or_default())?;
            header = parse_sector(&sector)?;
            let mut page = [0; PAGE];
            for group in 0..group_count(page_count(bytes)) {
                inner.read(checksums_offset(group), &mut page)?;
                groups.push(Group::parse(&page));
            }
        }
        Ok(Self { inner, groups: RwLock::new(groups), header: Mutex::new(header), damage })
    }

    fn groups(&self) -> RwLockReadGuard<'_, Vec<Group>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self) -> MutexGuard<'_, [u8; HEADER]> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, what: String) -> io::Error {
        let _is_first = self.damage.set(what.clone());
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    fn read_header(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut sector = [0; SECTOR];
        self.inner.read(0, &mut sector)?;
        let header = match parse_sector(&sector) {
            Ok(header) => header,
            Err(_) => return Err(self.damaged("the header does not match its checksum".to_owned())),
        };
        let range = header_range(offset, out.len())?;
        out.copy_from_slice(header.get(range).unwrap_or_default());
        Ok(())
    }

    fn write_header(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = header_range(offset, data.len())?;
        let mut header = self.header();
        header.get_mut(range).unwrap_or_default().copy_from_slice(data);
        self.inner.write(0, &sector(&header))
    }

    /// Calls `work` for each run of pages that is in one piece in the file: its first page and length in bytes.
    fn for_each_run(offset: u64, length: usize, mut work: impl FnMut(u64, usize) -> io::Result<()>) -> io::Result<()> {
        if !offset.is_multiple_of(PAGE_BYTES) || !length.is_multiple_of(PAGE) {
            return Err(misplaced(offset, length));
        }
        let (mut page, mut left) = (offset / PAGE_BYTES, length);
        while left > 0 {
            let (_, index) = place(page);
            let run = left.min((GROUP_PAGES - index) * PAGE);
            work(page, run)?;
            page += (run / PAGE) as u64;
            left -= run;
        }
        Ok(())
    }
}

impl<B: StorageBackend> StorageBackend for CheckedFile<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(page_count(self.inner.len()?) * PAGE_BYTES)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        if offset < PAGE_BYTES {
            return self.read_header(offset, out);
        }
        Self::for_each_run(offset, out.len(), |page, length| {
            let (run, rest) = std::mem::take(&mut out).split_at_mut_checked(length).unwrap_or_default();
            out = rest;
            self.inner.read(page_offset(page), run)?;
            let groups = self.groups();
            for (content, page) in run.chunks_exact(PAGE).zip(page..) {
                let (group, index) = place(page);
                let expected = groups.get(group).and_then(|group| group.checksums.get(index));
                if expected.is_none_or(|expected| expected.load(Ordering::Acquire) != checksum(page, content)) {
                    return Err(self.damaged(format!("page {page} does not match its checksum")));
                }
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let pages = len.div_ceil(PAGE_BYTES);
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        self.inner.set_len(file_bytes(pages))?;
        groups.resize_with(group_count(pages), Group::new);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        for (number, group) in self.groups().iter().enumerate() {
            // Before they are looked at: one that changes meanwhile is written the next time.
            if group.is_dirty.swap(false, Ordering::AcqRel) {
                let written = self.inner.write(checksums_offset(number), &group.page());
                written.inspect_err(|_| group.is_dirty.store(true, Ordering::Release))?;
            }
        }
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        if offset < PAGE_BYTES {
            return self.write_header(offset, data);
        }
        Self::for_each_run(offset, data.len(), |page, length| {
            let (run, rest) = data.split_at_checked(length).unwrap_or_default();
            data = rest;
            self.inner.write(page_offset(page), run)?;
            let groups = self.groups();
            for (content, page) in run.chunks_exact(PAGE).zip(page..) {
                let (group, index) = place(page);
                let Some(group) = groups.get(group) else { return Err(misplaced(offset, length)) };
                let Some(place) = group.checksums.get(index) else { return Err(misplaced(offset, length)) };
                place.store(checksum(page, content), Ordering::Release);
                group.is_dirty.store(true, Ordering::Release);
            }
            Ok(())
        })
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

impl Group {
    fn new() -> Self {
        Self { checksums: (0..GROUP_PAGES).map(|_| AtomicU32::new(0)).collect(), is_dirty: AtomicBool::new(false) }
    }

    fn parse(page: &[u8; PAGE]) -> Self {
        let (checksums, _) = page.as_chunks();
        let checksums = checksums.iter().map(|bytes| AtomicU32::new(u32::from_le_bytes(*bytes))).collect();
        Self { checksums, is_dirty: AtomicBool::new(false) }
    }

    fn page(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let (places, _) = page.as_chunks_mut();
        for (place, checksum) in places.iter_mut().zip(&self.checksums) {
            *place = checksum.load(Ordering::Acquire).to_le_bytes();
        }
        page
    }
}

fn checksum(page: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(page as u32);
    hasher.update(content);
    hasher.finalize().max(1)
}

fn sector(header: &[u8; HEADER]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let content = MAGIC.iter().chain(header).copied().chain(checksum(0, header).to_le_bytes());
    sector.iter_mut().zip(content).for_each(|(place, byte)| *place = byte);
    sector
}

fn parse_sector(bytes: &[u8; SECTOR]) -> Result<[u8; HEADER], Rejected> {
    if bytes.starts_with(&REDB_MAGIC) {
        return Err(Rejected::WithoutChecksums);
    }
    let mut header = [0; HEADER];
    header.iter_mut().zip(bytes.iter().skip(MAGIC.len())).for_each(|(place, byte)| *place = *byte);
    if *bytes != sector(&header) {
        return Err(Rejected::Damaged("the header does not match its checksum".to_owned()));
    }
    Ok(header)
}

fn header_range(offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let to = from.saturating_add(length);
    if to <= HEADER { Ok(from..to) } else { Err(misplaced(offset, length)) }
}

/// redb reads and writes whole pages, and the beginning of the first.
fn misplaced(offset: u64, length: usize) -> io::Error {
    let what = format!("{length} bytes at {offset} are no pages of the file");
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// The group that a page behind the first belongs to, and its place there.
fn place(page: u64) -> (usize, usize) {
    let (number, pages) = (page.saturating_sub(1), GROUP_PAGES as u64);
    (usize::try_from(number / pages).unwrap_or(usize::MAX), (number % pages) as usize)
}

fn page_offset(page: u64) -> u64 {
    let (group, index) = place(page);
    checksums_offset(group) + PAGE_BYTES + index as u64 * PAGE_BYTES
}

fn checksums_offset(group: usize) -> u64 {
    PAGE_BYTES + group as u64 * GROUP_STRIDE * PAGE_BYTES
}

/// Of so many pages of redb, how many groups there are.
fn group_count(pages: u64) -> usize {
    usize::try_from(pages.saturating_sub(1).div_ceil(GROUP_PAGES as u64)).unwrap_or(usize::MAX)
}

/// How large a file of so many pages of redb is.
fn file_bytes(pages: u64) -> u64 {
    (pages + group_count(pages) as u64) * PAGE_BYTES
}

/// How many pages of redb a file of this size has.
fn page_count(file_bytes: u64) -> u64 {
    let pages = file_bytes / PAGE_BYTES;
    pages - pages.saturating_sub(1).div_ceil(GROUP_STRIDE)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    fn checked(inner: Shared) -> CheckedFile<Shared> {
        CheckedFile::open(inner, Damage::default()).unwrap()
    }

    /// Bytes that outlive the layer over them.
    #[derive(Clone, Debug, Default)]
    struct Shared(Arc<InMemoryBackend>);

    impl Shared {
        fn flip(&self, at: u64) {
            let mut byte = [0];
            self.0.read(at, &mut byte).unwrap();
            self.0.write(at, &[byte[0] ^ 1]).unwrap();
        }
    }

    impl StorageBackend for Shared {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    /// Three groups, the last with one page, written as redb does.
    fn written() -> (Shared, Vec<Vec<u8>>) {
        let shared = Shared::default();
        let file = checked(shared.clone());
        let pages = 1 + 2 * GROUP_PAGES as u64 + 1;
        file.set_len(pages * PAGE_BYTES).unwrap();
        assert_eq!(file.len().unwrap(), pages * PAGE_BYTES);
        file.write(0, &[7; 320]).unwrap();
        let contents: Vec<Vec<u8>> = (1..pages).map(|page| vec![page as u8; PAGE]).collect();
        // Across the groups, in pieces of several pages.
        for (piece, at) in contents.chunks(48).zip((1..).step_by(48)) {
            file.write(at * PAGE_BYTES, &piece.concat()).unwrap();
        }
        file.sync_data().unwrap();
        (shared, contents)
    }

    #[test]
    fn what_was_written_is_read_by_the_next_to_open_it() {
        let (shared, contents) = written();
        let file = checked(shared);
        let mut header = [0; 320];
        file.read(0, &mut header).unwrap();
        assert_eq!(header, [7; 320]);
        let mut all = vec![0; contents.len() * PAGE];
        file.read(PAGE_BYTES, &mut all).unwrap();
        assert!(all == contents.concat());
    }

    #[test]
    fn a_wrong_byte_anywhere_is_an_error_of_the_page_it_is_in_and_of_no_other() {
        let (shared, contents) = written();
        for page in [1, 2, 1024, 1025, 2048, 2049] {
            for at in [page_offset(page) + 17, checksums_offset(place(page).0) + 4 * place(page).1 as u64] {
                shared.flip(at);
                let file = checked(shared.clone());
                let read = |page: u64| file.read(page * PAGE_BYTES, &mut [0; PAGE]);
                assert_eq!(read(page).unwrap_err().kind(), io::ErrorKind::InvalidData, "page {page}");
                assert_eq!(file.damage.get(), Some(&format!("page {page} does not match its checksum")));
                let others = (1..=contents.len() as u64).filter(|other| *other != page);
                assert!(others.step_by(97).all(|other| read(other).is_ok()));
                shared.flip(at);
            }
        }
        for at in [0, 8, 100, 504, 507, 511] {
            shared.flip(at);
            let opened = CheckedFile::open(shared.clone(), Damage::default());
            assert!(matches!(opened, Err(Rejected::Damaged(_))), "byte {at}");
            shared.flip(at);
        }
    }

    #[test]
    fn a_page_of_zeros_or_in_another_place_is_an_error() {
        let (shared, _) = written();
        let zeros = [0; 3 * PAGE];
        shared.0.write(checksums_offset(1), &zeros).unwrap();
        shared.0.write(page_offset(5), &[1; PAGE]).unwrap();
        let file = checked(shared);
        for page in [5, 1025, 1026] {
            assert!(file.read(page * PAGE_BYTES, &mut [0; PAGE]).is_err(), "page {page}");
        }
    }

    #[test]
    fn a_file_of_redb_alone_is_distinguished_from_a_damaged_one() {
        let shared = Shared::default();
        shared.set_len(64 << 10).unwrap();
        shared.write(0, &REDB_MAGIC).unwrap();
        let opened = CheckedFile::open(shared, Damage::default());
        assert!(matches!(opened, Err(Rejected::WithoutChecksums)));
    }

    #[test]
    fn sizes_convert_both_ways() {
        for pages in (0..5000).chain([1 << 20, (1 << 20) + 1]) {
            assert_eq!(page_count(file_bytes(pages)), pages);
        }
        assert_eq!(page_count(file_bytes(3000) - 1), 2999, "a cut file is shorter");
    }
}
