//! `sidecar init`: writes a commented configuration file after a few questions.
//!
//! Answers are lines of an input, so that they can be typed or piped. Nothing is written before all of them are given.

use std::{
    fs::OpenOptions,
    io::{self, BufRead, Write},
    net::IpAddr,
    path::PathBuf,
};

use thiserror::Error;
use url::Host;

use super::{
    commented::{Draft, Section, beside_nodes},
    sections::node_connection::parse_host,
};

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What to write, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file to write.
    pub file: PathBuf,
    /// Take the default of every question instead of asking it.
    pub yes: bool,
    /// Replace the file if there is one.
    pub force: bool,
}

/// Why no file was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InitError {
    /// There is a file already.
    #[error("{} exists and is not replaced; name another file, or replace it with --force", .0.display())]
    Exists(PathBuf),
    /// Nothing answers.
    #[error(
        "the input ended before every question was answered; nothing was written; answer all, or take the defaults with --yes"
    )]
    InputEnded,
    /// The questions cannot be asked.
    #[error("cannot ask the questions")]
    Terminal(#[from] io::Error),
    /// The file cannot be written.
    #[error("cannot write {}; let this user write there, or name another file", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Asks on `output`, reads the answers from `input`, and writes the file.
///
/// # Errors
/// Every [`InitError`]; nothing was written then, or not all of it with [`InitError::Write`].
pub fn run(options: &Options, input: &mut dyn BufRead, output: &mut dyn Write) -> Result<(), InitError> {
    let file = &options.file;
    if !options.force && file.exists() {
        return Err(InitError::Exists(file.clone()));
    }
    let answers = if options.yes { Answers::default() } else { ask(&mut Questions { input, output })? };
    let mut open = OpenOptions::new();
    open.write(true);
    // Without --force another may have made it meanwhile.
    if options.force {
        open.create(true).truncate(true)
    } else {
        open.create_new(true)
    };
    open.open(file).and_then(|mut open| open.write_all(answers.text().as_bytes())).map_err(|source| {
        match source.kind() {
            io::ErrorKind::AlreadyExists => InitError::Exists(file.clone()),
            _ => InitError::Write { file: file.clone(), source },
        }
    })?;
    let file = file.display();
    // The file is there, even if this cannot be written.
    let _ = writeln!(
        output,
        "{file} is written. See what it means: sidecar check-config {file}\nStart Sidecar: sidecar --path-to-config {file}"
    );
    Ok(())
}

/// The answers to all questions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers {
    network_name: Option<String>,
    nodes: Vec<Node>,
    storage_folder: String,
    with_rest: bool,
    with_admin: bool,
    /// The address of the node that JSON-RPC requests are sent to.
    rpc_node: Option<IpAddr>,
}

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    host: Host,
    sse_port: u16,
    rest_port: u16,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            network_name: None,
            nodes: vec![Node { host: Host::Ipv4([127, 0, 0, 1].into()), sse_port: 9999, rest_port: 8888 }],
            storage_folder: "./storage".to_owned(),
            with_rest: true,
            with_admin: true,
            rpc_node: None,
        }
    }
}

fn ask(questions: &mut Questions<'_>) -> Result<Answers, InitError> {
    let default = Answers::default();
    let network_name = questions.ask("Network name; with none, nodes of any network are read", "any", |answer| {
        Ok(Some(answer.to_owned()).filter(|name| name != "any"))
    })?;
    let what = "Nodes, as HOST or HOST:SSE_PORT:REST_PORT, with commas between several";
    let nodes: Vec<Node> =
        questions.ask(what, "127.0.0.1:9999:8888", |answer| answer.split(',').map(Node::parse).collect())?;
    let storage_folder = questions
        .ask("Folder for the log and its databases", &default.storage_folder, |answer| Ok(answer.to_owned()))?;
    let with_rest = questions.confirm("REST server on port 18888", default.with_rest)?;
    let with_admin = questions
        .confirm("Admin server, with /metrics and /health, on port 18887 for this machine only", default.with_admin)?;
    let address = nodes.iter().find_map(Node::ip_address);
    let rpc_node = match address {
        Some(address) => {
            let question = format!("JSON-RPC server on port 7777, for the node at {address} with binary port 7779");
            questions.confirm(&question, false)?.then_some(address)
        }
        // The link to a node takes addresses only.
        None => None,
    };
    Ok(Answers { network_name, nodes, storage_folder, with_rest, with_admin, rpc_node })
}

/// A conversation.
struct Questions<'a> {
    input: &'a mut dyn BufRead,
    output: &'a mut dyn Write,
}

impl Questions<'_> {
    /// Asks until `parse` accepts the answer. An empty answer is `default`.
    fn ask<Answer>(
        &mut self,
        question: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<Answer, String>,
    ) -> Result<Answer, InitError> {
        loop {
            write!(self.output, "{question} [{default}]: ")?;
            self.output.flush()?;
            let mut line = String::new();
            let read = io::Read::take(&mut self.input, ANSWER_BYTES_MAX).read_line(&mut line)?;
            if read == 0 {
                return Err(InitError::InputEnded);
            }
            let answer = line.trim();
            match parse(if answer.is_empty() { default } else { answer }) {
                Ok(answer) => return Ok(answer),
                Err(reason) => writeln!(self.output, "{reason}")?,
            }
        }
    }

    fn confirm(&mut self, question: &str, default: bool) -> Result<bool, InitError> {
        let default = if default { "yes" } else { "no" };
        self.ask(question, default, |answer| match answer.to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(true),
            "n" | "no" => Ok(false),
            _ => Err("Please answer yes or no.".to_owned()),
        })
    }
}

impl Node {
    /// `HOST`, `HOST:SSE_PORT` or `HOST:SSE_PORT:REST_PORT`; an IPv6 address with ports is in brackets.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let refusal = || {
            format!(
                "'{text}' is not a node; write for example 127.0.0.1, node.example.org:9999:8888 or [::1]:9999:8888."
            )
        };
        let (host, ports) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            Some((host, ports)) => (host, ports),
            None if text.parse::<IpAddr>().is_ok() => (text, ""),
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let host = parse_host(host).ok_or_else(refusal)?;
        let mut ports = ports.split(':').skip(1).map(|port| port.parse::<u16>().ok().filter(|port| *port > 0));
        let mut port_or = |default| ports.next().unwrap_or(Some(default)).ok_or_else(refusal);
        let node = Self { host, sse_port: port_or(9999)?, rest_port: port_or(8888)? };
        if ports.next().is_some() { Err(refusal()) } else { Ok(node) }
    }

    fn ip_address(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some((*address).into()),
            Host::Ipv6(address) => Some((*address).into()),
        }
    }

    fn section(&self) -> Section {
        let host = match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            // Displayed as a host it would have brackets.
            Host::Ipv6(address) => address.to_string(),
        };
        Section::node()
            .with_value("ip_address", text(&host))
            .with_value("sse_port", self.sse_port.to_string())
            .with_value("rest_port", self.rest_port.to_string())
    }
}

impl Answers {
    /// The file that says this.
    fn text(&self) -> String {
        let intro = "Written by `sidecar init`. `sidecar print-config --full` prints every key there is. \
                     `sidecar check-config FILE` reports what a file means.";
        let network = self.network_name.iter().map(|name| Section::new("").with_value("network_name", text(name)));
        let storage = Section::new("storage").with_value("storage_folder", text(&self.storage_folder));
        let read_and_serve = beside_nodes(storage, self.nodes.iter().map(Node::section).collect());
        let rest = self.with_rest.then(|| Section::new("rest_api_server").with("enable_server").with("port"));
        let admin = self
            .with_admin
            .then(|| Section::new("admin_api_server").with("enable_server").with("ip_address").with("port"));
        let rpc = self.rpc_node.map(|address| {
            let main_server =
                Section::new("rpc_server.main_server").with("enable_server").with("ip_address").with("port");
            let node_client = Section::new("rpc_server.node_client")
                .with_value("ip_address", text(&address.to_string()))
                .with("port");
            [main_server, node_client]
        });
        let sections = network.chain(read_and_serve).chain(rest).chain(admin).chain(rpc.into_iter().flatten());
        Draft { intro: intro.to_owned(), sections: sections.collect() }.text()
    }
}

/// `text` as TOML.
fn text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::loaded;

    /// The answers to the questions, and what was asked.
    fn answers(input: &str) -> (Result<Answers, InitError>, String) {
        let mut output = Vec::new();
        let answers = ask(&mut Questions { input: &mut input.as_bytes(), output: &mut output });
        (answers, String::from_utf8(output).unwrap())
    }

    #[test]
    fn empty_answers_are_the_defaults() {
        assert_eq!(answers(&"\n".repeat(6)).0.unwrap(), Answers::default());
    }

    #[test]
    fn every_set_of_answers_becomes_a_file_that_has_them() {
        for (input, rest, admin, rpc) in [
            ("\n\n\n\n\n\n", true, true, false),
            ("casper\n10.0.0.1, node.example.org:1:2,[::1]:3\n/var/lib/side \"car\"\nn\nno\nYES\n", false, false, true),
            ("any\nnode.example.org\n\ny\nn\n", true, false, false),
        ] {
            let answers = answers(input).0.unwrap();
            let text = answers.text();
            let loaded = loaded(&text);
            assert_eq!(loaded.warnings, [], "{text}");
            let config = loaded.config;
            assert_eq!(config.network_name, answers.network_name);
            assert_eq!(config.storage.unwrap().folder.to_str(), Some(answers.storage_folder.as_str()));
            let sse = config.sse_server.unwrap();
            let nodes = sse.connections.iter();
            let nodes =
                nodes.map(|node| Node { host: node.host.clone(), sse_port: node.sse_port, rest_port: node.rest_port });
            assert_eq!(nodes.collect::<Vec<_>>(), answers.nodes);
            assert!(sse.keep_trying);
            let parts =
                (config.rest_api_server.is_some(), config.admin_api_server.is_some(), config.rpc_server.is_some());
            assert_eq!(parts, (rest, admin, rpc), "{text}");
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_asked_for_again() {
        let (answers, asked) = answers("\nhttp://x\n1.2.3.4:0\na:1:2:3\n1.2.3.4:5:6\n\nperhaps\nn\n\n\n");
        let answers = answers.unwrap();
        assert_eq!(answers.nodes, [Node { host: Host::Ipv4([1, 2, 3, 4].into()), sse_port: 5, rest_port: 6 }]);
        assert!(!answers.with_rest);
        for part in ["'http://x' is not a node", "'1.2.3.4:0' is not", "'a:1:2:3' is not", "Please answer yes or no."] {
            assert!(asked.contains(part), "{part} in {asked}");
        }
    }

    #[test]
    fn an_input_that_ends_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { file: folder.path().join("sidecar.toml"), yes: false, force: false };
        let error = run(&options, &mut "\n\n".as_bytes(), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, InitError::InputEnded) && !options.file.exists());
    }

    #[test]
    fn a_file_is_replaced_with_force_only() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { file: folder.path().join("sidecar.toml"), yes: true, force: false };
        let run = |options: &Options| run(options, &mut "".as_bytes(), &mut Vec::new());
        run(&options).unwrap();
        let written = std::fs::read_to_string(&options.file).unwrap();
        assert_eq!(written, Answers::default().text());
        std::fs::write(&options.file, "precious").unwrap();
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains("exists and is not replaced") && error.contains("--force"), "{error}");
        assert_eq!(std::fs::read_to_string(&options.file).unwrap(), "precious");
        run(&Options { force: true, ..options.clone() }).unwrap();
        assert_eq!(std::fs::read_to_string(&options.file).unwrap(), written);
        let nowhere = Options { file: folder.path().join("missing/sidecar.toml"), ..options };
        assert!(run(&nowhere).unwrap_err().to_string().starts_with("cannot write "));
    }
}
