//! The built `sidecar` with its configuration file, on ports of its own.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::Process;
use crate::port::ReservedPort;

/// What a sidecar is to be configured with. Without more it has an SSE server, no node, and a log in a folder of its
/// own that goes away with it.
pub struct SidecarBuilder {
    binary: PathBuf,
    folder: TempDir,
    storage: Option<PathBuf>,
    nodes: Vec<(SocketAddr, String)>,
    top_level: String,
    sections: String,
    replacements: Vec<(String, String)>,
    event_stream_server: String,
    event_stream_buffer_length: u32,
    max_concurrent_subscribers: u32,
    disable_event_persistence: bool,
    has_sse_server: bool,
    has_rest_api: bool,
    also_serving: Vec<SocketAddr>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    open_files_max: Option<u64>,
    output: Option<OwnedFd>,
    sse_port: ReservedPort,
    rest_port: ReservedPort,
    admin_port: ReservedPort,
}

impl SidecarBuilder {
    /// Begins a configuration for `binary`.
    pub fn new(binary: impl AsRef<Path>) -> Self {
        Self {
            binary: binary.as_ref().to_owned(),
            folder: tempfile::tempdir().unwrap(),
            storage: None,
            nodes: Vec::new(),
            top_level: String::new(),
            sections: String::new(),
            replacements: Vec::new(),
            event_stream_server: String::new(),
            event_stream_buffer_length: 5_000,
            max_concurrent_subscribers: 100,
            disable_event_persistence: false,
            has_sse_server: true,
            has_rest_api: false,
            also_serving: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            open_files_max: None,
            output: None,
            sse_port: ReservedPort::new(),
            rest_port: ReservedPort::new(),
            admin_port: ReservedPort::new(),
        }
    }

    /// Adds a node that serves `/events` and `/status` on one port. It is tried again after one second, without end.
    pub fn node(self, address: SocketAddr) -> Self {
        self.node_with(address, "")
    }

    /// Adds a node with further keys of its `[[sse_server.connections]]` entry, as TOML lines. They replace the given
    /// `max_attempts`, `delay_between_retries_in_seconds`, `allow_partial_connection` and `enable_logging`.
    pub fn node_with(mut self, address: SocketAddr, keys: &str) -> Self {
        self.nodes.push((address, keys.to_owned()));
        self
    }

    /// Adds TOML lines before the first section, for example `max_thread_count = 1`.
    pub fn top_level(mut self, toml: &str) -> Self {
        self.top_level += &format!("{toml}\n");
        self
    }

    /// Adds whole TOML sections at the end, for example `[storage.log]` with its keys.
    pub fn sections(mut self, toml: &str) -> Self {
        self.sections += &format!("{toml}\n");
        self
    }

    /// Replaces a text of the configuration, which must be in it, by another: for what no other method has, mistakes
    /// above all.
    pub fn replacing(mut self, text: &str, by: &str) -> Self {
        self.replacements.push((text.to_owned(), by.to_owned()));
        self
    }

    /// Adds a `[rest_api_server]` on [`Sidecar::rest_address`].
    pub fn rest_api(self) -> Self {
        self.rest_api_with("")
    }

    /// Adds a `[rest_api_server]` with further keys, as TOML lines.
    pub fn rest_api_with(mut self, keys: &str) -> Self {
        self.has_rest_api = true;
        let port = self.rest_port.number();
        self.limited_server("rest_api_server", port, keys)
    }

    /// Adds an `[admin_api_server]` on [`Sidecar::admin_address`].
    pub fn admin_api(self) -> Self {
        self.admin_api_with("")
    }

    /// Adds an `[admin_api_server]` with further keys, as TOML lines.
    pub fn admin_api_with(self, keys: &str) -> Self {
        let port = self.admin_port.number();
        self.limited_server("admin_api_server", port, keys)
    }

    fn limited_server(self, section: &str, port: u16, keys: &str) -> Self {
        self.sections(&format!(
            "[{section}]\nenable_server = true\nport = {port}\nmax_concurrent_requests = 50\n\
             max_requests_per_second = 1000\n{keys}\n"
        ))
    }

    /// Adds an `[rpc_server]` that listens on `port` of the loopback interface, in front of the binary port at `node`.
    pub fn rpc(self, port: u16, node: SocketAddr) -> Self {
        self.sections(&format!(
            "[rpc_server.main_server]\nip_address = '127.0.0.1'\nport = {port}\n\
             [rpc_server.node_client]\nip_address = '{}'\nport = {}\n",
            node.ip(),
            node.port()
        ))
    }

    /// Switches on the event streams of 1.x nodes.
    pub fn legacy_streams(self) -> Self {
        self.replacing("[sse_server]\n", "[sse_server]\nemulate_legacy_sse_apis = ['V1']\n")
    }

    /// Adds keys to `[sse_server.event_stream_server]`.
    pub fn event_stream_server(mut self, toml: &str) -> Self {
        self.event_stream_server += &format!("{toml}\n");
        self
    }

    /// Keeps the log in `folder`, which outlives the sidecar.
    pub fn storage_folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.storage = Some(folder.as_ref().to_owned());
        self
    }

    /// Sets the key of this name; 5,000 otherwise.
    pub fn event_stream_buffer_length(mut self, events: u32) -> Self {
        self.event_stream_buffer_length = events;
        self
    }

    /// Sets the key of this name; 100 otherwise.
    pub fn max_concurrent_subscribers(mut self, subscribers: u32) -> Self {
        self.max_concurrent_subscribers = subscribers;
        self
    }

    /// Sets the key of this name; false otherwise.
    pub fn disable_event_persistence(mut self) -> Self {
        self.disable_event_persistence = true;
        self
    }

    /// Leaves `[sse_server]` out, and the storage folder with it.
    pub fn without_sse_server(mut self) -> Self {
        self.has_sse_server = false;
        self
    }

    /// Lets a start wait for the server at `address` too, which [`sections`](Self::sections) or [`rpc`](Self::rpc) has.
    pub fn serving(mut self, address: SocketAddr) -> Self {
        self.also_serving.push(address);
        self
    }

    /// Adds a command line argument after `--path-to-config FILE`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sets an environment variable of the process.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets the process open only so many files.
    pub fn open_files_max(mut self, files: u64) -> Self {
        self.open_files_max = Some(files);
        self
    }

    /// Makes `output` standard output and standard error of the process; then none of it is collected.
    pub fn output_to(mut self, output: impl Into<OwnedFd>) -> Self {
        self.output = Some(output.into());
        self
    }

    /// The configuration as it will be written to the file.
    pub fn configuration(&self) -> String {
        let sse_server = if self.has_sse_server { self.sse_server_sections() } else { String::new() };
        let mut toml = format!("{}\n{sse_server}{}", self.top_level, self.sections);
        for (text, by) in &self.replacements {
            assert!(toml.contains(text), "there is no {text:?} in the configuration:\n{toml}");
            toml = toml.replace(text, by);
        }
        toml
    }

    /// `[storage]` and `[sse_server]`.
    fn sse_server_sections(&self) -> String {
        let mut toml = format!(
            "[storage]\nstorage_folder = {:?}\n\n[sse_server]\nenable_server = true\ndisable_event_persistence = {}\n",
            self.storage_path(),
            self.disable_event_persistence,
        );
        if self.nodes.is_empty() {
            toml += "connections = []\n";
        }
        for (address, keys) in &self.nodes {
            toml += &format!(
                "\n[[sse_server.connections]]\nip_address = \"{}\"\nsse_port = {port}\nrest_port = {port}\n",
                address.ip(),
                port = address.port()
            );
            let defaults = [
                ("max_attempts", "1000000"),
                ("delay_between_retries_in_seconds", "1"),
                ("allow_partial_connection", "false"),
                ("enable_logging", "false"),
            ];
            for (key, value) in defaults {
                if !keys.contains(key) {
                    toml += &format!("{key} = {value}\n");
                }
            }
            toml += &format!("{keys}\n");
        }
        toml += &format!(
            "\n[sse_server.event_stream_server]\nport = {}\nmax_concurrent_subscribers = {}\nevent_stream_buffer_length = {}\n{}\n",
            self.sse_port.number(),
            self.max_concurrent_subscribers,
            self.event_stream_buffer_length,
            self.event_stream_server,
        );
        toml
    }

    /// Where it will serve events.
    pub fn sse_address(&self) -> SocketAddr {
        self.sse_port.address()
    }

    /// Starts the sidecar and waits until it serves: see [`Sidecar::wait_until_serving`]. The test fails if it ends before.
    pub async fn start(self) -> Sidecar {
        let mut sidecar = self.spawn();
        sidecar.wait_until_serving().await;
        sidecar
    }

    /// Starts the sidecar without waiting for anything.
    pub fn spawn(self) -> Sidecar {
        let config_file = self.write_configuration();
        let mut command = match self.open_files_max {
            None => Command::new(&self.binary),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\"")).arg(&self.binary);
                shell
            }
        };
        command.arg("--path-to-config").arg(&config_file).args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        let process = self.start_process(&mut command);
        Sidecar { builder: self, command, process }
    }

    fn write_configuration(&self) -> PathBuf {
        let config_file = self.config_file();
        std::fs::write(&config_file, self.configuration()).unwrap();
        config_file
    }

    fn start_process(&self, command: &mut Command) -> Process {
        match &self.output {
            Some(output) => Process::start_with_output(command, output),
            None => Process::start(command),
        }
    }

    fn config_file(&self) -> PathBuf {
        self.folder.path().join("sidecar.toml")
    }

    /// The folder that its logs will be in.
    pub fn storage_path(&self) -> PathBuf {
        self.storage.clone().unwrap_or_else(|| self.folder.path().join("storage"))
    }
}

/// A sidecar with its configuration; itself a [`Process`], running or ended.
pub struct Sidecar {
    builder: SidecarBuilder,
    command: Command,
    process: Process,
}

impl Sidecar {
    /// Where it serves events.
    pub fn sse_address(&self) -> SocketAddr {
        self.builder.sse_port.address()
    }

    /// Where it serves REST, with [`SidecarBuilder::rest_api`].
    pub fn rest_address(&self) -> SocketAddr {
        self.builder.rest_port.address()
    }

    /// Where its admin server is, with [`SidecarBuilder::admin_api`].
    pub fn admin_address(&self) -> SocketAddr {
        self.builder.admin_port.address()
    }

    /// The folder of its logs.
    pub fn storage_path(&self) -> PathBuf {
        self.builder.storage_path()
    }

    /// The file that it reads its configuration from.
    pub fn config_file(&self) -> PathBuf {
        self.builder.config_file()
    }

    /// Starts it again after its end, with the same configuration and ports, and waits until it serves.
    pub async fn restart(&mut self) {
        self.spawn_again();
        self.wait_until_serving().await;
    }

    /// Starts it again after its end without waiting for anything.
    pub fn spawn_again(&mut self) {
        assert!(self.process.has_ended(), "only what has ended can be restarted");
        self.process = self.builder.start_process(&mut self.command);
    }

    /// Replaces a text of the configuration, for the next start.
    pub fn reconfigure(&mut self, text: &str, by: &str) {
        self.builder.replacements.push((text.to_owned(), by.to_owned()));
        self.builder.write_configuration();
    }

    /// Waits until the SSE port takes connections, or the REST port of one without, and then each address of
    /// [`SidecarBuilder::serving`].
    pub async fn wait_until_serving(&mut self) {
        let first = match (self.builder.has_sse_server, self.builder.has_rest_api) {
            (true, _) => Some(self.sse_address()),
            (false, true) => Some(self.rest_address()),
            (false, false) => None,
        };
        for address in first.into_iter().chain(self.builder.also_serving.iter().copied()) {
            self.process.wait_until_listening(address).await;
        }
    }
}

impl Deref for Sidecar {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Sidecar {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cat` is used as the binary: it refuses the unknown option and ends.
    #[test]
    fn a_process_that_ends_at_once_leaves_its_status_and_output() {
        let mut process = SidecarBuilder::new("/bin/cat").spawn();
        assert_eq!(process.wait_for_exit().code(), Some(1));
        assert!(process.errors().contains("--path-to-config"), "{}", process.errors());
        assert_eq!(process.output(), process.errors());
    }

    #[tokio::test]
    #[should_panic(expected = "ended before it served")]
    async fn waiting_for_a_process_that_has_ended_fails_the_test() {
        SidecarBuilder::new("/bin/cat").start().await;
    }

    #[test]
    fn the_configuration_names_every_node_and_the_reserved_ports() {
        let node = ReservedPort::new();
        let builder = SidecarBuilder::new("/bin/cat")
            .node_with(node.address(), "max_attempts = 7")
            .top_level("max_thread_count = 1")
            .rest_api();
        let toml = builder.configuration();
        assert!(toml.starts_with("max_thread_count = 1\n"), "{toml}");
        assert_eq!(toml.matches("max_attempts").count(), 1, "{toml}");
        let ports = [node.number(), builder.sse_port.number(), builder.rest_port.number()];
        assert!(ports.iter().all(|port| toml.contains(&format!("port = {port}\n"))), "{toml}");
    }
}
