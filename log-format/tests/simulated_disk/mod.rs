//! A disk in memory that keeps what a real one promises and nothing more.
//!
//! What was not synced may be gone after a power cut: in part, torn at any byte, in any order, names like contents. A
//! call may fail, after half of its work; a failed sync may forget what it had to write; reads come in pieces; the
//! machine may stop at any call. Everything is decided by one seed and counted by kind.

#![allow(dead_code, unreachable_pub, reason = "shared by test files, of which each uses a part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sidecar_log_format::storage::{File, FileIdentity, Lock, Storage};

/// Random numbers from a seed (splitmix64).
#[derive(Default)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, and what it was to write may be there in part.
    Io,
    /// The device has no room for this call.
    Full,
    /// The machine stops: this call may be done in part, and all later ones do nothing.
    Stop,
}

/// Syncs that report success without their work: a bug planted below the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Syncs of segments.
    Segments,
    /// Syncs of the head.
    Head,
    /// Syncs of the directory.
    Directory,
}

/// How often each thing happened.
pub type Tally = BTreeMap<String, u64>;

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone)]
struct Inode {
    identity: FileIdentity,
    /// What is read: the page cache.
    content: Vec<u8>,
    /// What is on the device for sure.
    durable: Vec<u8>,
    /// What a sync will bring there. After a failed sync `content` may hold more than both.
    unsynced: Vec<Change>,
    /// Which bytes the device does not give back, and how many reads of them fail.
    unreadable: Option<(Range<u64>, u64)>,
}

impl Inode {
    /// A file at rest.
    fn holding(content: Vec<u8>, identity: FileIdentity) -> Self {
        Inode { identity, durable: content.clone(), content, unsynced: Vec::new(), unreadable: None }
    }

    fn apply(content: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write(offset, bytes) => {
                let end = *offset as usize + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset as usize..end].copy_from_slice(bytes);
            }
            Change::Length(length) => content.resize(*length as usize, 0),
        }
    }

    fn change(&mut self, change: Change) {
        Self::apply(&mut self.content, &change);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            Self::apply(&mut self.durable, &change);
        }
    }

    /// What the device holds when it could not finish: of what was not synced nothing, everything, some changes in any
    /// order, or pieces of different ages.
    fn torn(&self, random: &mut Random, tally: &mut Tally) -> Vec<u8> {
        let mut content = self.durable.clone();
        if self.unsynced.is_empty() {
            return content;
        }
        match random.below(5) {
            0 => count(tally, "unsynced writes: all lost"),
            1 => {
                count(tally, "unsynced writes: all kept");
                self.unsynced.iter().for_each(|change| Self::apply(&mut content, change));
            }
            2 => {
                count(tally, "unsynced writes: pieces of different ages");
                self.mix_pieces(&mut content, random);
            }
            order => {
                let mut changes = self.unsynced.clone();
                if order == 3 {
                    count(tally, "unsynced writes: some, reordered");
                    for at in (1..changes.len()).rev() {
                        changes.swap(at, random.below(at as u64 + 1) as usize);
                    }
                } else {
                    count(tally, "unsynced writes: some, torn");
                }
                for change in changes {
                    Self::apply_some(&mut content, change, random);
                }
            }
        }
        content
    }

    /// Applies a change, or its beginning or end, or nothing of it.
    fn apply_some(content: &mut Vec<u8>, change: Change, random: &mut Random) {
        match (random.below(4), change) {
            (0, _) => {}
            (1, Change::Write(offset, bytes)) => {
                let kept = random.below(bytes.len() as u64 + 1) as usize;
                let (offset, bytes) = match random.one_in(2) {
                    true => (offset, &bytes[..kept]),
                    false => (offset + (bytes.len() - kept) as u64, &bytes[bytes.len() - kept..]),
                };
                Self::apply(content, &Change::Write(offset, bytes.to_vec()));
            }
            (_, change) => Self::apply(content, &change),
        }
    }

    /// Each piece of the file, and its length, as it was after some change.
    fn mix_pieces(&self, content: &mut Vec<u8>, random: &mut Random) {
        let mut version = self.durable.clone();
        let ages = self.unsynced.len() as u64 + 1;
        let longest = self.content.len().max(version.len());
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < longest {
            let end = (at + 1 + random.below(1024) as usize).min(longest);
            pieces.push((random.below(ages), at..end));
            at = end;
        }
        let length_age = random.below(ages);
        let mut mixed = vec![0; longest];
        let mut length = 0;
        for age in 0..ages {
            for (_, piece) in pieces.iter().filter(|(of, _)| *of == age) {
                for at in piece.clone() {
                    mixed[at] = version.get(at).copied().unwrap_or(0);
                }
            }
            if age == length_age {
                length = version.len();
            }
            if let Some(change) = self.unsynced.get(age as usize) {
                Self::apply(&mut version, change);
                mixed.resize(mixed.len().max(version.len()), 0);
            }
        }
        mixed.resize(length, 0);
        *content = mixed;
    }

    /// The power is cut.
    fn lose(&mut self, random: &mut Random, tally: &mut Tally) {
        self.content = self.torn(random, tally);
        self.durable.clone_from(&self.content);
        self.unsynced.clear();
    }

    /// A sync fails.
    fn fail_sync(&mut self, random: &mut Random, tally: &mut Tally) {
        match random.below(3) {
            0 => {
                count(tally, "failed syncs: what was not written is gone");
                self.lose(random, tally);
            }
            1 => {
                // The kernel takes it for written: it can be read, and no later sync writes it.
                count(tally, "failed syncs: what was not written is forgotten and can be read");
                self.durable = self.torn(random, tally);
                // The file's length is in the filesystem's journal, which is not forgotten.
                self.unsynced.retain(|change| matches!(change, Change::Length(_)));
            }
            _ => count(tally, "failed syncs: nothing is gone"),
        }
    }
}

fn count(tally: &mut Tally, what: &str) {
    *tally.entry(what.to_owned()).or_default() += 1;
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// What names came to mean since the directory was synced.
    unsynced_names: Vec<(String, Option<u64>)>,
    /// Of all files that were ever made, which also tell their inodes apart here.
    next_inode: u64,
    /// Whether the file system keeps birth times. It gives the inode numbers of removed files to new ones then.
    keeps_birth_times: bool,
    calls: u64,
    /// A log that makes more calls than this goes round in circles.
    calls_max: Option<u64>,
    fault: Option<(u64, Fault)>,
    /// The device has no room until then.
    full_until: u64,
    faults_fired: u64,
    stopped: bool,
    locked: bool,
    /// Nothing is found under the directory's name; files that are open can still be read and written.
    moved_away: bool,
    random: Random,
    /// Set when a head was written that covers what was not synced.
    head_ran_ahead: bool,
    lie: Option<Lie>,
    tally: Tally,
}

impl State {
    /// Makes an inode and returns its key here. Its number is `reused` where the birth time tells the files apart.
    fn add_inode(&mut self, content: Vec<u8>, reused: Option<u64>) -> u64 {
        self.next_inode += 1;
        let key = self.next_inode;
        let identity = match self.keeps_birth_times {
            true => FileIdentity { inode: reused.unwrap_or(key), born: key as u32 },
            false => FileIdentity { inode: key, born: 0 },
        };
        self.inodes.insert(key, Inode::holding(content, identity));
        key
    }

    /// The smallest inode number that no named file has.
    fn free_number(&self) -> u64 {
        let taken: BTreeSet<_> = self.names.values().map(|inode| self.inodes[inode].identity.inode).collect();
        (1..).find(|number| !taken.contains(number)).unwrap()
    }

    fn set_name(&mut self, name: &str, inode: Option<u64>) {
        match inode {
            Some(inode) => _ = self.names.insert(name.to_owned(), inode),
            None => _ = self.names.remove(name),
        }
        self.unsynced_names.push((name.to_owned(), inode));
    }

    fn rename(&mut self, from: &str, to: &str) {
        if let Some(&inode) = self.names.get(from) {
            self.set_name(to, Some(inode));
            self.set_name(from, None);
        }
    }

    /// Each name that was changed since the directory was synced means what it meant at some time since.
    fn lose_names(&mut self) {
        let changed: BTreeSet<_> = self.unsynced_names.iter().map(|(name, _)| name.clone()).collect();
        let mut names = self.durable_names.clone();
        for name in changed {
            let meanings: Vec<_> =
                self.unsynced_names.iter().filter(|(other, _)| *other == name).map(|(_, inode)| *inode).collect();
            let kept = self.random.below(meanings.len() as u64 + 1) as usize;
            let Some(meaning) = kept.checked_sub(1).and_then(|kept| meanings.get(kept)) else {
                count(&mut self.tally, "unsynced names: lost");
                continue;
            };
            count(&mut self.tally, "unsynced names: kept");
            match meaning {
                Some(inode) => _ = names.insert(name, *inode),
                None => _ = names.remove(&name),
            }
        }
        self.unsynced_names.clear();
        self.names = names;
        self.durable_names.clone_from(&self.names);
    }
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

impl SimulatedDisk {
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.state().random = Random(seed);
        disk.state().keeps_birth_times = !seed.is_multiple_of(3);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the call after `calls` more fail.
    pub fn fail_after(&self, calls: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.calls + calls, fault));
    }

    /// Has no room for anything in the next `calls` calls.
    pub fn fill_up_for(&self, calls: u64) {
        let mut state = self.state();
        state.full_until = state.calls + calls;
    }

    pub fn clear_fault(&self) {
        let mut state = self.state();
        (state.fault, state.full_until) = (None, 0);
    }

    /// Takes the directory away from its name, or brings it back.
    pub fn move_away(&self, away: bool) {
        self.state().moved_away = away;
    }

    pub fn faults_fired(&self) -> u64 {
        self.state().faults_fired
    }

    pub fn failed_syncs(&self) -> u64 {
        self.state().tally.iter().filter(|(what, _)| what.starts_with("failed syncs")).map(|(_, count)| count).sum()
    }

    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    pub fn head_ran_ahead(&self) -> bool {
        self.state().head_ran_ahead
    }

    /// Plants a bug.
    pub fn lie_about(&self, lie: Lie) {
        self.state().lie = Some(lie);
    }

    /// Panics when more than `calls` calls are made from here on.
    pub fn allow_calls(&self, calls: u64) {
        let mut state = self.state();
        state.calls_max = Some(state.calls + calls);
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// What happened, by kind.
    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    pub fn count(&self, what: &str) {
        count(&mut self.state().tally, what);
    }

    /// The process is killed and started again: what it had written is there.
    pub fn restart_process(&self) {
        let mut state = self.state();
        count(&mut state.tally, "process restarts");
        state.restart();
    }

    /// The power is cut and comes back: only what was synced is sure to be there.
    pub fn cut_power(&self) {
        let mut state = self.state();
        let state = &mut *state;
        count(&mut state.tally, "power cuts");
        state.restart();
        state.lose_names();
        // Nobody has a file open any more.
        let named: BTreeSet<_> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| named.contains(inode));
        for inode in state.inodes.values_mut() {
            inode.lose(&mut state.random, &mut state.tally);
        }
    }

    /// The content of every file, as `cp -r` of a disk at rest would find it.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[inode].content.clone())).collect()
    }

    /// Changes a file without the log's knowledge.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = state.inodes.get_mut(&inode).unwrap();
        edit(&mut inode.content);
        inode.durable = inode.content.clone();
        inode.unsynced.clear();
    }

    /// Flips one bit of a file at rest.
    pub fn flip(&self, name: &str, byte: usize, bit: u32) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = state.inodes.get_mut(&inode).unwrap();
        inode.content[byte] ^= 1 << bit;
        // What is not durable yet is read from memory, and flipped there.
        let flipped = Change::Write(byte as u64, vec![inode.content[byte]]);
        match inode.unsynced.is_empty() {
            true => Inode::apply(&mut inode.durable, &flipped),
            false => inode.unsynced.push(flipped),
        }
    }

    /// Has the next `reads` reads of some bytes of a file fail as a bad sector's do.
    pub fn spoil(&self, name: &str, bytes: Range<u64>, reads: u64) {
        let mut state = self.state();
        let inode = state.names[name];
        state.inode(inode).unreadable = Some((bytes, reads));
    }

    /// The bytes can be read again.
    pub fn heal(&self, name: &str) {
        let mut state = self.state();
        let inode = state.names[name];
        state.inode(inode).unreadable = None;
    }

    /// Puts a copy of every file in its place, as when a backup is put back: with the inode number of the original, if birth
    /// times tell them apart.
    pub fn move_to_copy(&self) {
        let mut state = self.state();
        let names = std::mem::take(&mut state.names);
        for (name, inode) in names {
            let Inode { content, identity, .. } = state.inodes[&inode].clone();
            let copy = state.add_inode(content, Some(identity.inode));
            state.names.insert(name, copy);
        }
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
    }

    /// A disk that holds these files, under other inodes.
    pub fn with_files(seed: u64, files: BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::new(seed);
        {
            let mut state = disk.state();
            state.next_inode = 1_000_000;
            for (name, content) in files {
                let inode = state.add_inode(content, None);
                state.names.insert(name, inode);
            }
            state.durable_names = state.names.clone();
        }
        disk
    }

    fn call(&self, operation: &str) -> io::Result<MutexGuard<'_, State>> {
        self.call_or_half(operation, |_| {})
    }

    /// Counts a call, and returns how it fails if it does, having done `half` of its work.
    fn call_or_half(&self, operation: &str, half: impl FnOnce(&mut State)) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.stopped {
            return Err(io::Error::other("the machine has stopped"));
        }
        state.calls += 1;
        if state.calls_max.is_some_and(|most| state.calls > most) {
            state.calls_max = None;
            panic!("the log goes on and on: {} calls, at last to {operation}", state.calls);
        }
        let is_full =
            state.calls <= state.full_until && matches!(operation, "write" | "allocate" | "create" | "rename");
        let calls = state.calls;
        let fault = match state.fault.take_if(|(at, _)| calls > *at) {
            Some((_, fault)) => fault,
            None if is_full => Fault::Full,
            None => return Ok(state),
        };
        state.faults_fired += 1;
        let name = match fault {
            Fault::Io => "EIO",
            Fault::Full => "ENOSPC",
            Fault::Stop => "stops",
        };
        count(&mut state.tally, &format!("{name}: {operation}"));
        half(&mut state);
        state.stopped = fault == Fault::Stop;
        Err(match fault {
            Fault::Io => io::Error::other("injected"),
            Fault::Full => io::ErrorKind::StorageFull.into(),
            Fault::Stop => io::Error::other("the machine stops"),
        })
    }
}

impl State {
    fn restart(&mut self) {
        (self.stopped, self.locked, self.fault, self.full_until) = (false, false, None, 0);
    }

    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes.get_mut(&number).unwrap()
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    inode: u64,
    name: String,
}

impl SimulatedFile {
    fn change(&self, operation: &str, change: Change) -> io::Result<()> {
        let half = |state: &mut State| match &change {
            Change::Write(offset, bytes) => {
                let half = state.random.below(bytes.len() as u64 + 1) as usize;
                state.inode(self.inode).change(Change::Write(*offset, bytes[..half].to_vec()));
            }
            Change::Length(_) if state.random.one_in(2) => state.inode(self.inode).change(change.clone()),
            Change::Length(_) => {}
        };
        let mut state = self.disk.call_or_half(operation, half)?;
        state.inode(self.inode).change(change);
        Ok(())
    }

    /// A head must not cover more than was synced.
    fn check_head(&self, bytes: &[u8]) {
        let mut state = self.disk.state();
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let (segment, end) = (format!("{:020}.segment", number(24)), number(32));
        let of_segment = state.names.get(&segment).and_then(|inode| state.inodes.get(inode));
        let is_before_end = |change: &Change| matches!(change, Change::Write(at, _) if *at < end);
        state.head_ran_ahead |= of_segment.is_none_or(|inode| inode.unsynced.iter().any(is_before_end));
    }
}

impl File for SimulatedFile {
    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.call("read")?;
        let state = &mut *state;
        let end = offset + buffer.len() as u64;
        let inode = state.inode(self.inode);
        inode.unreadable.take_if(|(_, reads)| *reads == 0);
        if let Some((bytes, reads)) = &mut inode.unreadable
            && bytes.start < end
            && offset < bytes.end
        {
            *reads -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        let content = state.inodes[&self.inode].content.get(offset as usize..).unwrap_or_default();
        let mut length = content.len().min(buffer.len());
        if length > 1 && state.random.one_in(16) {
            count(&mut state.tally, "short reads");
            length = 1 + state.random.below(length as u64 - 1) as usize;
        }
        buffer[..length].copy_from_slice(&content[..length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change("write", Change::Write(offset, bytes.to_vec()))?;
        if self.name == "head" && bytes.starts_with(b"HEAD") {
            self.check_head(bytes);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.call_or_half("sync", |state| {
            let State { inodes, random, tally, .. } = state;
            inodes.get_mut(&self.inode).unwrap().fail_sync(random, tally);
        })?;
        let is_lie = match state.lie {
            Some(Lie::Segments) => self.name.contains(".segment"),
            Some(Lie::Head) => self.name == "head",
            _ => false,
        };
        if !is_lie {
            state.inode(self.inode).sync();
        }
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = (offset + length).max(self.disk.state().inodes[&self.inode].content.len() as u64);
        self.change("allocate", Change::Length(end))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change("set length", Change::Length(length))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.call("length")?.inodes[&self.inode].content.len() as u64)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(self.disk.state().inodes[&self.inode].identity)
    }
}

struct SimulatedLock(SimulatedDisk);

impl Lock for SimulatedLock {
    fn is_held(&self) -> io::Result<bool> {
        Ok(!self.0.state().moved_away)
    }
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Storage for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let create = |state: &mut State| {
            let known = state.names.get(name).copied();
            let inode = known.unwrap_or_else(|| {
                let number = state.free_number();
                state.add_inode(Vec::new(), Some(number))
            });
            state.set_name(name, Some(inode));
            state.inode(inode).change(Change::Length(0));
            state.inode(inode).unreadable = None;
            inode
        };
        let mut state = self.call_or_half("create", |state| {
            if state.random.one_in(2) {
                create(state);
            }
        })?;
        let inode = create(&mut state);
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode, name: name.to_owned() }))
    }

    fn open(&self, name: &str, _write: bool) -> io::Result<Arc<dyn File>> {
        let state = self.call("open")?;
        let inode = *state.names.get(name).filter(|_| !state.moved_away).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode, name: name.to_owned() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.call_or_half("rename", |state| {
            if state.random.one_in(2) {
                state.rename(from, to);
            }
        })?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(from, to);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.call_or_half("remove", |state| {
            if state.random.one_in(2) {
                state.set_name(name, None);
            }
        })?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.set_name(name, None);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.call("sync directory")?;
        if state.lie != Some(Lie::Directory) {
            state.durable_names = state.names.clone();
            state.unsynced_names.clear();
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.call("list")?;
        if state.moved_away {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(state.names.keys().cloned().collect())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.call("lock")?;
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimulatedLock(self.clone()))))
    }

    fn free_space(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn name(&self) -> String {
        "the simulated disk".to_owned()
    }
}
