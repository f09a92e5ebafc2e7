//! Doors for the fuzz targets in `fuzz/`: any bytes flow in, and what must hold for all of them is asserted here.
//!
//! Compiled for fuzzing and for tests only. The ordinary tests put every committed case of the corpus through the same
//! doors, so what a fuzzer once found stays found. Bytes alone hardly ever get past a checksum; each door therefore also
//! tries them with checksums that fit.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise ends the run")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    Event, FrameForm, Kind, Log, Read, ReadOptions, WriteOptions, Writer,
    block::{self, BLOCK_HEADER_BYTES, Block, BlockBuilder, BlockHeader, BlockType, Encoder},
    form::Form,
    head,
    inspect::inspect,
    oldest,
    position::Position,
    repair::{Action, RepairOptions, repair},
    segment::{Footer, SegmentHeader, parse_file_name},
    storage::{File, FileIdentity, Lock, Storage},
    verify::verify,
};

/// A block: header, table and payload as they are stored, or as they are before compression.
pub fn block(bytes: &[u8]) {
    for frames in [FrameForm::Plain, FrameForm::Named] {
        let form = Form::new(frames, vec![(1, "One".to_owned()), (2, "Two".to_owned())]);
        decode_block(&form, bytes);
        decode_block(&form, &with_checksums(bytes));
        decode_block(&form, &compressed(bytes));
    }
}

/// What is before and after the blocks of a segment, and the slots of the files `head` and `oldest`.
pub fn footer(bytes: &[u8]) {
    let file = MemoryFile::of(bytes.to_vec(), NEW_FILE);
    if let Ok((header, length)) = SegmentHeader::read("a segment", &file) {
        assert!(length <= bytes.len() as u64);
        let again = MemoryFile::of(header.encode(), NEW_FILE);
        assert_eq!(SegmentHeader::read("its copy", &again).unwrap().0, header);
    }
    head::doors::check_slot(bytes);
    oldest::doors::check_slot(bytes);
    read_footer(bytes.to_vec());
    for block in [with_checksums(bytes), compressed(bytes)] {
        read_footer([block, Footer::trailer(FOOTER_AT)].concat());
    }
}

/// A directory: its description, then its files. With any content, the log opens or reports why not, serves what is sound,
/// takes new events and is the same when it is opened again.
pub fn recovery(bytes: &[u8]) {
    let disk = Disk::told_by(bytes);
    let before = disk.contents();
    look(&disk);
    assert_eq!(disk.contents(), before, "looking changes nothing");
    let to_repair = disk.copy();
    write_and_reopen(&disk);
    repair_twice(&to_repair);
    write_and_reopen(&to_repair);
}

fn decode_block(form: &Form, bytes: &[u8]) {
    let Ok(header) = BlockHeader::decode(bytes) else { return };
    let mut encoded = Vec::new();
    header.encode(&mut encoded);
    assert_eq!(BlockHeader::decode(&encoded), Ok(header.clone()));
    let parts = &bytes[BLOCK_HEADER_BYTES..];
    if header.block_type == BlockType::MARKS {
        let _ = block::decode_marks(&header, form, parts);
    }
    let shape = Block::shape(&header, form, parts);
    let Ok(decoded) = Block::decode(&header, form, parts) else { return };
    let shape = shape.unwrap();
    assert_eq!(decoded.len(), header.count as usize);
    assert!(decoded.rows().map(|row| row.range().len()).sum::<usize>() <= decoded.wire().len());
    for (row, shaped) in decoded.rows().zip(shape.rows()) {
        assert_eq!(row.range(), shaped.range());
        assert_eq!(row.frame().len(), row.range().len());
        let _ = (row.payload(), row.rise());
        if row.is_sound() {
            let mut frame = Vec::new();
            let payload = row.payload();
            if let Ok(payload) = std::str::from_utf8(&payload) {
                crate::wire::push_event(&mut frame, form.frames, row.name(), payload, row.sequence());
                assert_eq!(crate::wire::unfold(form.frames, &frame).unwrap(), payload.as_bytes());
            }
        }
    }
    if header.block_type == BlockType::EVENTS {
        encode_again(form, &header, &decoded);
    }
}

/// A block that was decoded and is encoded again says the same.
fn encode_again(form: &Form, header: &BlockHeader, block: &Block) {
    let position = Position {
        next_sequence: header.first_sequence,
        wire_version: header.version_before,
        announced_version: header.version_before,
        chain: header.chain_after,
    };
    let mut builder = BlockBuilder::new(form.clone(), position, block.wire().len());
    for row in block.rows() {
        builder.push_stored(row, header.chain_after);
    }
    let mut bytes = Vec::new();
    builder.finish(BlockType::EVENTS, &mut Encoder::new(1).unwrap(), &mut bytes).unwrap();
    let header = BlockHeader::decode(&bytes).unwrap();
    let again = Block::decode(&header, form, &bytes[BLOCK_HEADER_BYTES..]).unwrap();
    assert_eq!(again.wire(), block.wire());
    assert_eq!(again.version_after(), block.version_after());
    for (row, before) in again.rows().zip(block.rows()) {
        assert_eq!(row.range_with_rise(), before.range_with_rise());
        let facts = |row: &crate::Row<'_>| (row.kind(), row.api_version(), row.upstream_id(), row.received());
        assert_eq!(facts(&row), facts(&before));
        assert_eq!(row.name(), before.name());
        assert_eq!((row.source(), row.network(), row.rise()), (before.source(), before.network(), before.rise()));
    }
}

/// Where a footer is put: far enough after the blocks that it may list.
const FOOTER_AT: u64 = 1 << 40;

fn read_footer(bytes: Vec<u8>) {
    let file = MemoryFile { start: FOOTER_AT, ..MemoryFile::of(bytes, NEW_FILE) };
    let Ok(Some((footer, offset))) = Footer::read("a segment", &file) else { return };
    let again = footer.encode(offset, &mut Encoder::new(1).unwrap()).unwrap();
    let file = MemoryFile { start: offset, ..MemoryFile::of(again, NEW_FILE) };
    assert_eq!(Footer::read("its copy", &file).unwrap().unwrap(), (footer, offset));
}

const LENGTHS: std::ops::Range<usize> = 72..88;
const CHECKSUMS: std::ops::Range<usize> = 120..128;

fn length_at(block: &[u8], place: usize) -> usize {
    u32::from_le_bytes(block[place..place + 4].try_into().unwrap()) as usize
}

/// The bytes of a block with magic, version and checksums that fit, and lengths that do not reach beyond them.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut block = bytes.to_vec();
    if block.len() >= BLOCK_HEADER_BYTES {
        let parts = block.len() - BLOCK_HEADER_BYTES;
        let table = length_at(&block, LENGTHS.start).min(parts);
        let payload = length_at(&block, LENGTHS.start + 8).min(parts - table);
        seal(&mut block, [table, payload]);
    }
    block
}

/// The same where table and payload are given as they are before compression.
fn compressed(bytes: &[u8]) -> Vec<u8> {
    if bytes.len() < BLOCK_HEADER_BYTES {
        return bytes.to_vec();
    }
    let (header, parts) = bytes.split_at(BLOCK_HEADER_BYTES);
    let (table, payload) = parts.split_at(length_at(header, LENGTHS.start + 4).min(parts.len()));
    let stored_payload = zstd::bulk::compress(payload, 1).unwrap();
    let mut block = [header, table, &stored_payload].concat();
    block[LENGTHS.start + 4..LENGTHS.start + 8].copy_from_slice(&(table.len() as u32).to_le_bytes());
    block[LENGTHS.end - 4..LENGTHS.end].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    seal(&mut block, [table.len(), stored_payload.len()]);
    block
}

fn seal(block: &mut [u8], [table, payload]: [usize; 2]) {
    block[..4].copy_from_slice(b"SBLK");
    block[LENGTHS.start..LENGTHS.start + 4].copy_from_slice(&(table as u32).to_le_bytes());
    block[LENGTHS.start + 8..LENGTHS.start + 12].copy_from_slice(&(payload as u32).to_le_bytes());
    let payload_at = BLOCK_HEADER_BYTES + table;
    let table_crc = crc32fast::hash(&block[BLOCK_HEADER_BYTES..payload_at]);
    let payload_crc = crc32fast::hash(&block[payload_at..payload_at + payload]);
    block[CHECKSUMS.start..CHECKSUMS.start + 4].copy_from_slice(&table_crc.to_le_bytes());
    block[CHECKSUMS.start + 4..CHECKSUMS.end].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = crc32fast::hash(&block[..BLOCK_HEADER_BYTES - 4]);
    block[BLOCK_HEADER_BYTES - 4..BLOCK_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// Gives the header and every block of a segment checksums that fit, as far as one is found after the other.
fn mend_segment(segment: &mut [u8]) {
    let Some(length) = segment.get(10..12).map(|length| u16::from_le_bytes([length[0], length[1]]) as usize) else {
        return;
    };
    if length < 4 || length > segment.len() {
        return;
    }
    let crc = crc32fast::hash(&segment[..length - 4]);
    segment[length - 4..length].copy_from_slice(&crc.to_le_bytes());
    let mut at = length;
    while segment.get(at..).is_some_and(|rest| rest.len() >= BLOCK_HEADER_BYTES && rest.starts_with(b"SBLK")) {
        let block = with_checksums(&segment[at..]);
        segment[at..].copy_from_slice(&block);
        at += BLOCK_HEADER_BYTES + length_at(&block, LENGTHS.start) + length_at(&block, LENGTHS.start + 8);
    }
}

fn options() -> WriteOptions {
    WriteOptions {
        kinds: vec![(1, "One".to_owned()), (2, "Two".to_owned())],
        block_bytes_max: 512,
        allocate_bytes: 4096,
        ..WriteOptions::new("casper", [7; 16], 1)
    }
}

fn look(disk: &Arc<Disk>) {
    let storage = disk.storage();
    if let Ok(log) = Log::open(Arc::clone(&storage), ReadOptions::default()) {
        let _ = inspect(&log);
        let _ = log.marks(0);
        read_all(&log);
    }
    let _ = verify(&storage, &mut |_| ());
    let _ = repair(&storage, RepairOptions { dry_run: true, now: 1 });
}

/// Reads everything. Each step leads on, and what is served is sound.
fn read_all(log: &Log) {
    let mut position = log.oldest();
    // Holes may be wide, but every piece of the files is met once.
    for _ in 0..100_000 {
        let _ = log.read_stored(position);
        let next = match log.read(position) {
            Err(_) => return,
            Ok(Read::End) => return,
            Ok(Read::Missing { to, .. }) => to,
            Ok(Read::Events { block, index }) => {
                for row in block.rows().skip(index) {
                    assert!(!row.frame().is_empty());
                    let _ = row.payload();
                }
                assert!(block.row(index).is_some_and(|row| row.sequence() >= position));
                block.end_sequence()
            }
            Ok(Read::Large(event)) => {
                let _ = event.payload();
                event.sequence() + 1
            }
        };
        assert!(next > position, "reading at {position} leads on to {next}");
        position = next;
    }
    panic!("reading does not end");
}

fn write_and_reopen(disk: &Arc<Disk>) {
    let Ok(opened) = Writer::open(disk.storage(), options()) else { return };
    let (mut writer, log) = (opened.writer, opened.log);
    read_all(&log);
    let event = Event { source: "node", network: "net", upstream_id: Some(1), ..Event::new(Kind(1), 1, "{\"new\":1}") };
    let Ok(sequence) = writer.append(&event) else { return };
    let head = writer.commit().unwrap();
    assert_eq!(head.next_sequence, sequence + 1);
    let is_there = |log: &Log| match log.read(sequence) {
        Ok(Read::Events { block, index }) => block.row(index).is_some_and(|row| &*row.payload() == b"{\"new\":1}"),
        _ => false,
    };
    assert!(is_there(&log), "what was committed is visible");
    writer.close().unwrap();
    drop(log);
    let opened = Writer::open(disk.storage(), options()).unwrap();
    assert!(is_there(&opened.log), "what was committed is still there");
    assert_eq!(opened.writer.next_sequence(), sequence + 1);
}

/// What is set aside is kept; a second repair does nothing, and names again what the first one left.
fn repair_twice(disk: &Arc<Disk>) {
    let now = RepairOptions { dry_run: false, now: 1 };
    let done = match repair(&disk.storage(), now) {
        Ok(done) => done,
        Err(error) => {
            assert!(!error.to_string().contains("still damaged"), "{error}");
            return;
        }
    };
    let repaired = disk.contents();
    let mut kept = BTreeSet::new();
    for action in &done {
        if let Action::Quarantine { kept_as, bytes, .. } | Action::SetTailAside { kept_as, bytes, .. } = action {
            assert!(kept.insert(kept_as), "{kept_as} was replaced");
            assert_eq!(repaired[kept_as].len() as u64, *bytes);
        }
    }
    let left = repair(&disk.storage(), now).unwrap();
    let told: Vec<_> = done.into_iter().filter(|action| matches!(action, Action::Leave { .. })).collect();
    assert_eq!(left, told, "a second repair finds something else");
    assert_eq!(disk.contents(), repaired, "a second repair changes nothing");
}

/// The names that a described file may have.
const NAMES: [&str; 8] = [
    "head",
    "00000000000000000000.segment",
    "00000000000000000015.segment",
    "00000000000000000030.segment",
    "00000000000000000100.segment",
    "18446744073709551615.segment",
    "00000000000000000015.segment.new",
    "oldest",
];

/// The identity of files that are made here.
const NEW_FILE: FileIdentity = FileIdentity { inode: 1, born: 0 };

/// A file in memory.
#[derive(Clone)]
struct MemoryFile {
    content: Arc<Mutex<Vec<u8>>>,
    /// The file's bytes before this are zeros and not kept.
    start: u64,
    identity: FileIdentity,
}

impl MemoryFile {
    fn of(content: Vec<u8>, identity: FileIdentity) -> Self {
        MemoryFile { content: Arc::new(Mutex::new(content)), start: 0, identity }
    }

    fn content(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock().unwrap()
    }
}

impl File for MemoryFile {
    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content();
        let Some(rest) = offset.checked_sub(self.start).and_then(|offset| content.get(usize::try_from(offset).ok()?..))
        else {
            return Ok(0);
        };
        let length = buffer.len().min(rest.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (offset, mut content) = (offset as usize, self.content());
        let end = offset + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut content = self.content();
        let length = content.len().max((offset + length) as usize);
        content.resize(length, 0);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.content().resize(length as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.start + self.content().len() as u64)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(self.identity)
    }
}

/// A directory in memory.
struct Disk {
    files: Mutex<BTreeMap<String, MemoryFile>>,
}

struct Unlocked;
impl Lock for Unlocked {
    fn is_held(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Disk {
    /// One byte says whether checksums are mended and whether the head was written here; then each file has a byte for
    /// its name, three for its length, and its content.
    fn told_by(bytes: &[u8]) -> Arc<Self> {
        let (how, mut rest) = bytes.split_first().map_or((0, bytes), |(how, rest)| (*how, rest));
        let mut files = BTreeMap::new();
        while let Some(([name, length @ ..], content)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes([length[0], length[1], length[2], 0]) as usize;
            let (content, others) = content.split_at(length.min(content.len()));
            rest = others;
            let name = NAMES[usize::from(*name) % NAMES.len()].to_owned();
            let mut content = content.to_vec();
            if how & 1 != 0 && parse_file_name(&name).is_some() {
                mend_segment(&mut content);
            }
            let named = head::doors::identity_in(&content).filter(|_| how & 2 != 0);
            let identity = named.unwrap_or(NEW_FILE);
            files.insert(name, MemoryFile::of(content, identity));
        }
        Arc::new(Disk { files: Mutex::new(files) })
    }

    fn storage(self: &Arc<Self>) -> Arc<dyn Storage> {
        Arc::clone(self) as Arc<dyn Storage>
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, MemoryFile>> {
        self.files.lock().unwrap()
    }

    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.files().iter().map(|(name, file)| (name.clone(), file.content().clone())).collect()
    }

    fn copy(&self) -> Arc<Self> {
        let copied = |file: &MemoryFile| MemoryFile::of(file.content().clone(), file.identity);
        let files = self.files().iter().map(|(name, file)| (name.clone(), copied(file))).collect();
        Arc::new(Disk { files: Mutex::new(files) })
    }
}

impl Storage for Disk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = MemoryFile::of(Vec::new(), NEW_FILE);
        self.files().insert(name.to_owned(), file.clone());
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str, _write: bool) -> io::Result<Arc<dyn File>> {
        let file = self.files().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>> {
        Ok(Some(Box::new(Unlocked)))
    }

    fn free_space(&self) -> io::Result<u64> {
        Ok(1 << 40)
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let files = fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
        let cases: Vec<_> = files.collect();
        assert!(!cases.is_empty());
        cases
    }

    #[test]
    fn every_block_of_the_corpus_holds() {
        corpus("block").iter().for_each(|case| block(case));
    }

    #[test]
    fn every_footer_of_the_corpus_holds() {
        corpus("footer").iter().for_each(|case| footer(case));
    }

    #[test]
    fn every_directory_of_the_corpus_holds() {
        corpus("recovery").iter().for_each(|case| recovery(case));
    }
}
