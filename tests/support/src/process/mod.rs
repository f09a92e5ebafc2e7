//! Processes, run as users run them: the built `sidecar` above all, with what the system reports of it.
//!
//! In: a command, or the binary's path (`env!("CARGO_BIN_EXE_sidecar")` in a test of the package `sidecar`) and the wanted
//! configuration. Out: a running [`Process`], or a [`Sidecar`] on ports that no other process has, killed when it is
//! dropped. When a test fails, the end of the process's output is printed.

mod sidecar;

use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::port::ReservedPort;

pub use sidecar::{Sidecar, SidecarBuilder};

/// How long a start or an end may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often one looks whether it has happened.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The command `sidecar demo`, with these servers (`sse`, `rest`, `admin`, `rpc`, `grpc`) on their ports, and the others on
/// any free ones.
pub fn demo(binary: &str, ports: &[(&str, &ReservedPort)]) -> Command {
    let mut command = Command::new(binary);
    command.arg("demo");
    for server in ["sse", "rest", "admin", "rpc", "grpc"] {
        let port = ports.iter().find(|(name, _)| *name == server).map_or(0, |(_, port)| port.number());
        command.arg(format!("--{server}-port={port}"));
    }
    command
}

/// One life of a process, killed when this is dropped, and the threads that read what it writes.
pub struct Process {
    child: Child,
    leads_group: bool,
    /// Standard output and standard error as they arrived.
    output: Arc<Mutex<Vec<u8>>>,
    /// Standard error alone.
    errors: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` without an input.
    pub fn start(command: &mut Command) -> Self {
        Self::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Like [`start`](Self::start), and what the process starts is killed with it: it leads a process group of its own.
    pub fn start_group(command: &mut Command) -> Self {
        let mut process = Self::start(command.process_group(0));
        process.leads_group = true;
        process
    }

    /// Starts `command` with `output` as its standard output and standard error; none of it is read here.
    pub fn start_with_output(command: &mut Command, output: &OwnedFd) -> Self {
        let output = || output.try_clone().unwrap();
        Self::spawn(command.stdout(output()).stderr(output()))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (output, errors) = (Arc::default(), Arc::default());
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(read_into(stdout, vec![Arc::clone(&output)]));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(read_into(stderr, vec![Arc::clone(&output), Arc::clone(&errors)]));
        }
        Self { child, leads_group: false, output, errors, readers }
    }

    /// Everything it wrote to standard output and standard error, as far as read.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// What it wrote to standard error, as far as read.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors.lock().unwrap()).into_owned()
    }

    /// Waits until its output contains `text`.
    pub async fn wait_for_output(&mut self, text: &str) {
        self.wait_for_outputs(text, 1).await;
    }

    /// Waits until its output contains `text` so many times.
    pub async fn wait_for_outputs(&mut self, text: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.output().matches(text).count() < times {
            assert!(Instant::now() < deadline, "not {times} times {text:?} in the output within {PATIENCE:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Kills it as the system does when memory is short: at once, nothing is finished.
    pub fn kill9(&mut self) {
        // It may have ended by itself.
        let _ = match self.leads_group {
            true => kill_process_group(self.pid(), Signal::KILL).map_err(Into::into),
            false => self.child.kill(),
        };
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the end; the test fails if it takes longer than 30 s.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_exit()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until it ends by itself; its whole output is there then.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.finish_reading();
                return status;
            }
            assert!(Instant::now() < deadline, "the process did not end within {PATIENCE:?}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until `text` is in the output, or the process has ended; returns whether it is there.
    pub async fn wait_until_output_or_exit(&mut self, text: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let has_ended = self.child.try_wait().unwrap().is_some();
            if has_ended {
                self.finish_reading();
            }
            if self.output().contains(text) || has_ended {
                return self.output().contains(text);
            }
            assert!(Instant::now() < deadline, "neither {text:?} nor an end within {PATIENCE:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until something listens on `address`; the test fails if the process ends before.
    pub async fn wait_until_listening(&mut self, address: SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        // A plain connection that asks for nothing; the server sees it end.
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.finish_reading();
                panic!("the process ended before it served: {status}");
            }
            assert!(Instant::now() < deadline, "the process did not serve within {PATIENCE:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The process's id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Resident memory in bytes: now, and the most there was.
    pub fn resident_memory_bytes(&self) -> ResidentMemory {
        let status = self.proc_file("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
        };
        ResidentMemory { now: field("VmRSS:"), anonymous: field("RssAnon:"), highest: field("VmHWM:") }
    }

    /// How many threads it has now.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid().as_raw_nonzero())).unwrap().count()
    }

    /// The processor time used by all its threads, user and system together.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc_file("stat");
        // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
        let (_, after_name) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = after_name.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid().as_raw_nonzero())).unwrap()
    }

    fn finish_reading(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            self.finish_reading();
            let output = self.output();
            let start = output.len().saturating_sub(4_000);
            let start = (start..=output.len()).find(|&at| output.is_char_boundary(at)).unwrap();
            eprintln!("--- the end of the process's output ---\n{}\n---", &output[start..]);
        }
    }
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentMemory {
    /// At the moment.
    pub now: u64,
    /// The part of it that is no file's: heap and stacks.
    pub anonymous: u64,
    /// The most since the process began.
    pub highest: u64,
}

fn read_into(mut pipe: impl Read + Send + 'static, outputs: Vec<Arc<Mutex<Vec<u8>>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            for output in &outputs {
                output.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processor_time_come_from_the_system() {
        // `yes` is busy with its output until it is killed.
        let process = Process::start(Command::new("yes").arg("busy"));
        let deadline = Instant::now() + PATIENCE;
        while process.cpu_time().is_zero() {
            assert!(Instant::now() < deadline, "a busy process uses processor time");
            std::thread::yield_now();
        }
        let memory = process.resident_memory_bytes();
        assert!(memory.now > 0 && memory.highest >= memory.now, "{memory:?}");
    }
}
