//! A disk in memory that keeps what a real one promises and nothing more: what was not synced may be gone after a power
//! cut, in part and in any order; a call may fail; the machine may stop at any call.

#![allow(dead_code, unreachable_pub, reason = "shared by test files, of which each uses a part")]

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use sidecar_log_format::storage::{File, Lock, Storage};

/// Random numbers from a seed (splitmix64).
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
    /// The machine stops: this call and all later ones do nothing.
    Stop,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

impl Inode {
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

    /// What is left after a power cut: some of what was not synced, torn at any byte.
    fn lose(&mut self, random: &mut Random) {
        let mut content = self.durable.clone();
        for change in std::mem::take(&mut self.unsynced) {
            match (random.below(4), change) {
                (0, _) => {}
                (1, Change::Write(offset, bytes)) => {
                    let kept = random.below(bytes.len() as u64 + 1) as usize;
                    // The beginning or the end: a disk writes in no promised order.
                    let (offset, bytes) = match random.one_in(2) {
                        true => (offset, &bytes[..kept]),
                        false => (offset + (bytes.len() - kept) as u64, &bytes[bytes.len() - kept..]),
                    };
                    Self::apply(&mut content, &Change::Write(offset, bytes.to_vec()));
                }
                (_, change) => Self::apply(&mut content, &change),
            }
        }
        self.content = content.clone();
        self.durable = content;
    }
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next_inode: u64,
    calls: u64,
    fault: Option<(u64, Fault)>,
    faults_fired: u64,
    stopped: bool,
    locked: bool,
    random: Option<Random>,
    /// Set when a head was written that speaks of what was not synced.
    head_ran_ahead: bool,
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

impl SimulatedDisk {
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.state().random = Some(Random(seed));
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Has the call after `calls` more fail.
    pub fn fail_after(&self, calls: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.calls + calls, fault));
    }

    pub fn clear_fault(&self) {
        self.state().fault = None;
    }

    pub fn faults_fired(&self) -> u64 {
        self.state().faults_fired
    }

    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    pub fn head_ran_ahead(&self) -> bool {
        self.state().head_ran_ahead
    }

    /// The process is killed and started again: what it had written is there.
    pub fn restart_process(&self) {
        let mut state = self.state();
        (state.stopped, state.locked, state.fault) = (false, false, None);
    }

    /// The power is cut and comes back: only what was synced is sure to be there.
    pub fn cut_power(&self) {
        self.restart_process();
        let mut state = self.state();
        let state = &mut *state;
        let random = state.random.as_mut().unwrap();
        state.names = state.durable_names.clone();
        for inode in state.inodes.values_mut() {
            inode.lose(random);
        }
    }

    /// The content of every file, as `cp -r` of a disk at rest would find it.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[inode].content.clone())).collect()
    }

    /// Changes a file behind the log's back.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = state.inodes.get_mut(&inode).unwrap();
        edit(&mut inode.content);
        inode.durable = inode.content.clone();
        inode.unsynced.clear();
    }

    /// A disk that holds these files, under other inodes.
    pub fn with_files(seed: u64, files: BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::new(seed);
        {
            let mut state = disk.state();
            state.next_inode = 1_000_000;
            for (name, content) in files {
                state.next_inode += 1;
                let number = state.next_inode;
                let inode = Inode { durable: content.clone(), content, unsynced: Vec::new() };
                state.inodes.insert(number, inode);
                state.names.insert(name, number);
            }
            state.durable_names = state.names.clone();
        }
        disk
    }

    /// Counts a call, and says how it fails if it does.
    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        self.call_or_half(|_, _| {})
    }

    fn call_or_half(&self, half: impl FnOnce(&mut State, &mut Random)) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.stopped {
            return Err(io::Error::other("the machine has stopped"));
        }
        state.calls += 1;
        let Some((_, fault)) = state.fault.filter(|(at, _)| state.calls > *at) else { return Ok(state) };
        state.fault = None;
        state.faults_fired += 1;
        let mut random = state.random.take().unwrap();
        half(&mut state, &mut random);
        state.random = Some(random);
        state.stopped = fault == Fault::Stop;
        Err(match fault {
            Fault::Io => io::Error::other("injected"),
            Fault::Full => io::ErrorKind::StorageFull.into(),
            Fault::Stop => io::Error::other("the machine stops"),
        })
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    inode: u64,
    is_head: bool,
}

impl File for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.call()?;
        let content = state.inodes[&self.inode].content.get(offset as usize..).unwrap_or_default();
        let length = content.len().min(buffer.len());
        buffer[..length].copy_from_slice(&content[..length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.call_or_half(|state, random| {
            let half = bytes[..random.below(bytes.len() as u64 + 1) as usize].to_vec();
            state.inodes.get_mut(&self.inode).unwrap().change(Change::Write(offset, half));
        })?;
        if self.is_head {
            let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let (segment, end) = (format!("{:020}.segment", number(24)), number(32));
            let of_segment = state.names.get(&segment).and_then(|inode| state.inodes.get(inode));
            let is_before_end = |change: &Change| matches!(change, Change::Write(at, _) if *at < end);
            state.head_ran_ahead |= of_segment.is_none_or(|inode| inode.unsynced.iter().any(is_before_end));
        }
        state.inodes.get_mut(&self.inode).unwrap().change(Change::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.call_or_half(|state, random| {
            // The kernel forgets what it could not write.
            state.inodes.get_mut(&self.inode).unwrap().lose(random);
        })?;
        let inode = state.inodes.get_mut(&self.inode).unwrap();
        inode.durable = inode.content.clone();
        inode.unsynced.clear();
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut state = self.disk.call()?;
        let inode = state.inodes.get_mut(&self.inode).unwrap();
        let end = (offset + length).max(inode.content.len() as u64);
        inode.change(Change::Length(end));
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.call()?.inodes.get_mut(&self.inode).unwrap().change(Change::Length(length));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.call()?.inodes[&self.inode].content.len() as u64)
    }

    fn identity(&self) -> io::Result<u64> {
        Ok(self.inode)
    }
}

struct SimulatedLock(SimulatedDisk);

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Storage for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.call()?;
        state.next_inode += 1;
        let inode = *state.names.get(name).unwrap_or(&state.next_inode);
        state.names.insert(name.to_owned(), inode);
        state.inodes.entry(inode).or_default().change(Change::Length(0));
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode, is_head: name == "head" }))
    }

    fn open(&self, name: &str, _write: bool) -> io::Result<Arc<dyn File>> {
        let state = self.call()?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode, is_head: name == "head" }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.call()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.call()?.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.call()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.call()?.names.keys().cloned().collect())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.call()?;
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
