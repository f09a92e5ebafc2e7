//! The command line of `sidecar`: what can be typed, and how it is explained.
//!
//! Owns the definitions only, from which `--help`, the shell completions and the manual pages follow; `main` does what is
//! asked.

use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand};

use crate::demo;

/// Stores a blockchain node's event stream in a durable log, and re-serves it over SSE from any sequence on.
#[derive(Parser)]
#[command(
    name = "sidecar",
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        sidecar demo                          watch a recorded network; needs no set-up\n  \
        sidecar init                          write sidecar.toml after a few questions\n  \
        sidecar check-config sidecar.toml     see what a configuration file means\n  \
        sidecar --path-to-config sidecar.toml run beside a node\n  \
        sidecar status                        what the running Sidecar does, on one screen\n  \
        curl -N 'http://127.0.0.1:19999/events?start_from=0'   read everything, and then what is new\n\n\
        Logging follows RUST_LOG, for instance RUST_LOG=info. Colours follow NO_COLOR.\n\
        To look into a log, see `sidecar-log --help`."
)]
pub struct Arguments {
    /// The TOML configuration file.
    #[arg(short, long, value_name = "FILE", required = true)]
    pub path_to_config: Option<PathBuf>,
    /// Import the events that a Casper Sidecar 2.x left in the storage folder, before anything is served; done once.
    #[arg(long)]
    pub import_history: bool,
    /// The subcommand; without one, Sidecar runs.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The subcommands of `sidecar`.
#[derive(Subcommand)]
pub enum Command {
    /// Replay a recorded Casper network through a simulated node into a real log and the real event stream server; or watch
    /// a simulated Ethereum consensus client, with `--dialect beacon`, or a ping-pong server's gRPC stream, with
    /// `--dialect grpc`.
    Demo(DemoArguments),
    /// Write a commented configuration file after a few questions.
    Init(InitArguments),
    /// Report what each key of a configuration file does, its value, and where that came from; exit 1 if it cannot be used.
    CheckConfig(CheckConfigArguments),
    /// Print a commented configuration file.
    PrintConfig(PrintConfigArguments),
    /// Ask a running Sidecar's admin server what it does: logs, nodes, disk, clients, damage.
    #[command(after_help = "\
Examples:
  sidecar status
  sidecar status --address https://sidecar.example.org/admin --token-file ~/.sidecar-token
  sidecar status --json | jq '.status.logs[].newest'

Colours come on a terminal only, and not with NO_COLOR. Certificates of HTTPS are checked against the system's roots, \
or those in SSL_CERT_FILE.

Exit status: 0 Sidecar is ready; 1 it is not ready: the second line says why; 2 it cannot be asked, or wrong usage.")]
    Status(StatusArguments),
}

/// The arguments of `sidecar init`.
#[derive(Args)]
pub struct InitArguments {
    /// The file to write.
    #[arg(value_name = "FILE", default_value = "sidecar.toml")]
    pub file: PathBuf,
    /// Ask nothing: take the default of every question.
    #[arg(long)]
    pub yes: bool,
    /// Replace the file if there is one.
    #[arg(long)]
    pub force: bool,
}

/// The arguments of `sidecar check-config`.
#[derive(Args)]
pub struct CheckConfigArguments {
    /// The TOML configuration file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print the report as JSON, for scripts.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `sidecar print-config`.
#[derive(Args)]
pub struct PrintConfigArguments {
    /// Print every key, not only the needed ones.
    #[arg(long)]
    pub full: bool,
}

/// The arguments of `sidecar demo`.
#[derive(Args)]
#[command(args_override_self = true)]
pub struct DemoArguments {
    /// Whose events flow through.
    #[arg(long, value_enum, default_value_t)]
    pub dialect: demo::DemoDialect,
    /// Keep the log in this directory; without it, it goes when the demo ends.
    #[arg(long, value_name = "DIR")]
    pub storage_path: Option<PathBuf>,
    /// How many times faster than it happened (611 s, a block a second); 0 is as fast as it goes. Without it, 20, and for
    /// beacon 1: a slot a second.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub speed: Option<f64>,
    /// The port of the event stream server; 0 is any free one, as for the others. Without it, 19999, and for beacon 15052.
    #[arg(long, value_name = "PORT")]
    pub sse_port: Option<u16>,
    /// The port of the REST server.
    #[arg(long, value_name = "PORT", default_value_t = 18888)]
    pub rest_port: u16,
    /// The port of the admin server.
    #[arg(long, value_name = "PORT", default_value_t = 18887)]
    pub admin_port: u16,
    /// The port of the JSON-RPC server.
    #[arg(long, value_name = "PORT", default_value_t = 7777)]
    pub rpc_port: u16,
    /// The port of the gRPC gateway, with `--dialect grpc`.
    #[arg(long, value_name = "PORT", default_value_t = 15053)]
    pub grpc_port: u16,
}

/// The arguments of `sidecar status`.
#[derive(Args)]
pub struct StatusArguments {
    /// The admin server: HOST:PORT, or its URL.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18887")]
    pub address: String,
    /// The file with the token that the admin server wants.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print one JSON object, with the whole answer of /status.
    #[arg(long)]
    pub json: bool,
}

/// What people type, and what they probably mean.
pub type Guesses = [(&'static str, &'static str)];

/// What people type for subcommands of `sidecar`, or of `sidecar-log`.
const GUESSES: &Guesses = &[
    ("run", "sidecar --path-to-config FILE"),
    ("start", "sidecar --path-to-config FILE"),
    ("serve", "sidecar --path-to-config FILE"),
    ("server", "sidecar --path-to-config FILE"),
    ("check", "sidecar check-config FILE"),
    ("validate", "sidecar check-config FILE"),
    ("lint", "sidecar check-config FILE"),
    ("config", "sidecar print-config"),
    ("defaults", "sidecar print-config --full"),
    ("setup", "sidecar init"),
    ("new", "sidecar init"),
    ("configure", "sidecar init"),
    ("health", "sidecar status"),
    ("ready", "sidecar status"),
    ("stats", "sidecar status"),
    ("info", "sidecar status"),
    ("top", "sidecar status"),
    ("version", "sidecar --version"),
    ("inspect", "sidecar-log inspect LOG"),
    ("ls", "sidecar-log inspect LOG"),
    ("cat", "sidecar-log cat LOG"),
    ("dump", "sidecar-log cat LOG"),
    ("tail", "sidecar-log tail LOG"),
    ("verify", "sidecar-log verify LOG"),
    ("repair", "sidecar-log repair LOG"),
    ("compact", "sidecar-log compact LOG"),
    ("export", "sidecar-log export LOG --output FILE"),
    ("import", "sidecar-log import --from DATABASE LOG"),
    ("rebuild-views", "sidecar-log rebuild-views LOG"),
];

/// Adds what was probably meant to the refusal of a command line of `sidecar`.
#[must_use]
pub fn with_guess(refusal: clap::Error) -> clap::Error {
    guessing(refusal, GUESSES, |typed| typed.ends_with(".toml").then(|| format!("sidecar --path-to-config {typed}")))
}

/// The same for another program, with its guesses, after what `other` makes of the word that was typed.
#[must_use]
pub fn guessing(refusal: clap::Error, guesses: &Guesses, other: impl FnOnce(&str) -> Option<String>) -> clap::Error {
    let Some(typed) = unknown_subcommand(&refusal) else { return refusal };
    let known = || guesses.iter().find(|(word, _)| *word == typed).map(|(_, meant)| (*meant).to_owned());
    match other(&typed).or_else(known) {
        Some(meant) => with_tip(refusal, &meant),
        None => refusal,
    }
}

/// What was typed where a subcommand should be, if that is what is wrong.
fn unknown_subcommand(refusal: &clap::Error) -> Option<String> {
    match refusal.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(typed)) => Some(typed.clone()),
        _ => None,
    }
}

/// Replaces clap's suggestion by `meant`.
fn with_tip(mut refusal: clap::Error, meant: &str) -> clap::Error {
    refusal.remove(ContextKind::SuggestedSubcommand);
    let tip = StyledStr::from(format!("did you mean `{meant}`?"));
    refusal.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    refusal
}
