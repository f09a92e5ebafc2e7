//! The binary: command line, logging, exit codes. What it runs is in the library.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic when standard output or error is closed")]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod one_heap;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sidecar::admin::overview::Overview;
use sidecar::build_info::{self, Build};
use sidecar::command_line::{
    self, Arguments, CheckConfigArguments, Command, InitArguments, PrintConfigArguments, StatusArguments,
};
use sidecar::config::{self, Config, Loaded, init, report::Report};
use sidecar::telemetry::{self, LogOptions, Output};
use sidecar::{appliance, demo};
use tokio::signal::unix::{SignalKind, signal};

/// The exit status of `sidecar status` when the admin server could not be queried.
const CANNOT_BE_ASKED: u8 = 2;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    one_heap::restart_with_one_heap();
    build_info::set(Build::of_commit(sidecar_build_info::commit!()));
    match Output::start(std::io::stdout()) {
        Ok(output) => {
            let status = run_as_asked(&output);
            output.finish();
            status
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "Error: no thread can be started for the log lines: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_as_asked(output: &Output) -> ExitCode {
    let version = build_info::build().to_string().leak();
    let typed = Arguments::command().long_version(&*version).try_get_matches();
    let arguments = match typed.and_then(|typed| Arguments::from_arg_matches(&typed)) {
        Ok(arguments) => arguments,
        Err(answer) => {
            let answer = command_line::with_guess(answer);
            // The help or the refusal may have no reader.
            let _ = answer.print();
            return ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(1));
        }
    };
    match run(arguments, output) {
        Ok(status) => status,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Reports on standard error why the process ends.
fn report(error: &anyhow::Error) {
    if let Ok(errors) = Output::start(std::io::stderr()) {
        errors.write_lines(format!("{}\n", with_causes(error)).as_bytes());
        errors.finish();
    }
}

fn run(arguments: Arguments, output: &Output) -> anyhow::Result<ExitCode> {
    match (arguments.command, arguments.path_to_config) {
        (Some(Command::Demo(demo)), _) => {
            let options = demo::Options {
                dialect: demo.dialect,
                storage_path: demo.storage_path,
                speed: demo.speed.unwrap_or(demo.dialect.speed()),
                sse_port: demo.sse_port.unwrap_or(demo.dialect.sse_port()),
                rest_port: demo.rest_port,
                admin_port: demo.admin_port,
                rpc_port: demo.rpc_port,
                grpc_port: demo.grpc_port,
            };
            telemetry::start_logging(output, &LogOptions::default());
            demo::run(options, output.clone())
        }
        (Some(Command::Init(InitArguments { file, yes, force })), _) => {
            let options = init::Options { file, yes, force };
            Ok(init::run(&options, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())?)
        }
        (Some(Command::CheckConfig(arguments)), _) => check_config(&arguments),
        (Some(Command::PrintConfig(PrintConfigArguments { full: true })), _) => print(&config::every_key()),
        (Some(Command::PrintConfig(PrintConfigArguments { full: false })), _) => print(&config::few_keys()),
        (Some(Command::Status(arguments)), _) => return show_status(&arguments),
        (None, Some(path)) => run_appliance(&path, arguments.import_history, output),
        (None, None) => anyhow::bail!("a configuration file is needed: sidecar --path-to-config FILE"),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the status of a running Sidecar. The exit status is 0 if it is ready, 1 if not, 2 if it cannot be queried.
fn show_status(StatusArguments { address, token_file, json }: &StatusArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let overview = match runtime.block_on(Overview::ask(address, token_file.as_deref())) {
        Ok(overview) => overview,
        Err(error) => {
            report(&error.into());
            return Ok(ExitCode::from(CANNOT_BE_ASKED));
        }
    };
    match json {
        true => print(&overview.json())?,
        false => print(&overview.text(telemetry::shows_colour(&std::io::stdout())))?,
    }
    Ok(if overview.is_ready() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what a file means. With `json`, an error is an object too, besides the lines on standard error.
fn check_config(CheckConfigArguments { file, json }: &CheckConfigArguments) -> anyhow::Result<()> {
    match (Report::of_file(file), json) {
        (Ok(report), true) => print(&format!("{}\n", report.json())),
        (Ok(report), false) => print(&report.to_string()),
        (Err(error), true) => {
            let error = anyhow::Error::new(error);
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            print(&format!("{:#}\n", serde_json::json!({ "file": file, "errors": causes })))?;
            Err(error)
        }
        (Err(error), false) => Err(error.into()),
    }
}

/// Writes `text` to standard output. A reader that wants no more of it is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}

/// An error in the form in which `main` would show it, which is the reference's, but never with a backtrace: what ends the
/// process is for its operator, not for its programmers.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = format!("Error: {error}");
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    if !causes.is_empty() {
        text.push_str("\n\nCaused by:");
    }
    for (number, cause) in causes.iter().enumerate() {
        let margin = if causes.len() > 1 { format!("{number:>5}: ") } else { " ".repeat(4) };
        let next_line = format!("\n{}", " ".repeat(margin.len()));
        text.push_str(&format!("\n{margin}{}", cause.replace('\n', &next_line)));
    }
    text
}

fn run_appliance(path: &Path, import_history: bool, output: &Output) -> anyhow::Result<()> {
    let Loaded { mut config, warnings } = Config::load(path)?;
    telemetry::start_logging(output, &config.logging);
    let Build { version, commit, profile, .. } = build_info::build();
    tracing::info!(version, commit, profile, config = %path.display(), "Sidecar starts");
    for warning in &warnings {
        tracing::warn!(file = %path.display(), %warning, "a part of the configuration is ignored");
    }
    if import_history {
        let storage = config.storage.as_mut().filter(|_| config.sse_server.is_some());
        let storage = storage.context("--import-history needs a log: add `[sse_server]` to the configuration")?;
        storage.import_history = true;
    }
    allow_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads.workers)
        .max_blocking_threads(config.threads.blocking)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(async {
        reload_on_hangup(path.to_owned())?;
        appliance::run(&config).await
    });
    // Blocking reads of slow clients are not waited for: their results are not needed any more.
    runtime.shutdown_background();
    result
}

/// Applies the log level of the configuration at `path` on every SIGHUP. Servers read certificates and tokens
/// again by themselves.
fn reload_on_hangup(path: PathBuf) -> anyhow::Result<()> {
    let mut hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let path = path.clone();
            // It reads files.
            if let Err(error) = tokio::task::spawn_blocking(move || reload(&path)).await {
                tracing::error!(%error, "SIGHUP: reading the configuration has failed; what was in use stays");
            }
        }
    });
    Ok(())
}

fn reload(path: &Path) {
    match Config::load(path) {
        Ok(Loaded { config, .. }) => {
            let log_level = telemetry::show_lines(config.logging.level.as_deref());
            tracing::info!(
                log_level,
                "SIGHUP: log level, certificates and tokens are read again; restart for all else"
            );
        }
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(
                reason,
                "SIGHUP: the configuration cannot be used, so the log level stays; correct the file"
            );
        }
    }
}

/// Lets the process have as many files and connections open as its hard limit allows: the usual soft one of 1024 would be
/// used up by clients before the server's own limits are reached.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        let current = limit.current.unwrap_or(u64::MAX);
        tracing::warn!(current, %error, "the limit of open files could not be raised; raise it with LimitNOFILE or ulimit -n");
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_is_shown_as_main_would_but_without_a_backtrace() {
        for error in [
            anyhow!("one line"),
            anyhow!("why").context("what"),
            anyhow!("two\nlines").context("why").context("what"),
            anyhow!("two\nlines").context("what"),
        ] {
            // As it is returned from `main`.
            let returned = format!("Error: {error:?}");
            let (expected, _backtrace) = returned.split_once("\n\nStack backtrace:").unwrap_or((&returned, ""));
            assert_eq!(with_causes(&error), expected);
        }
    }
}
