//! Writes what a package holds beside the programs: manual pages, shell completions and the configuration.
//!
//! All of it is made of what the programs know themselves, so it is never out of step with them: the command lines, and the
//! answers to the questions of `sidecar init`. `packaging/build` puts the packages together.

mod manual;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use sidecar::command_line::Arguments;
use sidecar::config::init;

/// Where the service's files are: answers for a node on the same machine, stored in the unit's state directory.
const ANSWERS: &str = "any\n127.0.0.1:9999:8888\n/var/lib/sidecar\nyes\nyes\nno\n";

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).context("name the folder to write to")?;
    write_all(&folder)
}

/// Writes the configuration, and for each program its pages and completions.
fn write_all(folder: &Path) -> anyhow::Result<()> {
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    for made in [&pages, &completions] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    let programs: [(&str, Command); 2] = [("sidecar", Arguments::command()), ("sidecar-log", sidecar_log::command())];
    for (name, command) in programs {
        let mut command = command.name(name).disable_help_subcommand(true);
        command.build();
        manual::write_pages(&command, &pages).context("cannot write the manual pages")?;
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            generate_to(shell, &mut command, name, &completions).context("cannot write the completions")?;
        }
    }
    let options = init::Options { file: folder.join("sidecar.toml"), yes: false, force: true };
    init::run(&options, &mut ANSWERS.as_bytes(), &mut std::io::sink())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

    use std::process;

    use sidecar::config::Config;

    use super::*;

    const UNIT: &str = include_str!("../sidecar.service");

    #[test]
    fn the_packaged_configuration_is_the_units_and_stores_in_its_state_directory() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path()).unwrap();
        let loaded = Config::load(&folder.path().join("sidecar.toml")).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let config = loaded.config;
        assert_eq!(config.storage.unwrap().folder, Path::new("/var/lib/sidecar"));
        assert!(config.sse_server.unwrap().keep_trying, "the service starts before its node");
        let admin = config.admin_api_server.unwrap();
        assert!(admin.listen.addresses.iter().all(|address| address.is_loopback()));
        for line in [
            "ExecStart=/usr/bin/sidecar --path-to-config /etc/sidecar/sidecar.toml",
            "StateDirectory=sidecar",
            "Type=notify",
        ] {
            assert!(UNIT.lines().any(|there| there == line), "{line}");
        }
    }

    #[test]
    fn each_program_and_each_subcommand_has_a_page_and_each_shell_completions() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path()).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join("man").join(format!("{name}.1"))).unwrap();
        assert!(page("sidecar").contains("sidecar\\-log"), "it names the tool");
        assert!(page("sidecar-log-head").contains("\n.SH \"EXIT STATUS\"\n.PP\n0; 1 when the log does not know"));
        for subcommand in Arguments::command().get_subcommands() {
            page(&format!("sidecar-{}", subcommand.get_name()));
        }
        for subcommand in sidecar_log::command().get_subcommands() {
            page(&format!("sidecar-log-{}", subcommand.get_name()));
        }
        for file in ["sidecar.bash", "sidecar-log.bash", "_sidecar", "_sidecar-log", "sidecar.fish", "sidecar-log.fish"]
        {
            let completions = fs::read_to_string(folder.path().join("completions").join(file)).unwrap();
            let subcommand = if file.contains("-log") { "inspect" } else { "print-config" };
            assert!(completions.contains(subcommand), "{file}");
        }
    }

    #[test]
    fn systemd_finds_little_that_the_unit_may_do_beyond_its_work() {
        let folder = tempfile::tempdir().unwrap();
        let unit = folder.path().join("sidecar.service");
        fs::write(&unit, UNIT).unwrap();
        let mut command = process::Command::new("systemd-analyze");
        // Its score times ten.
        let command = command.args(["security", "--no-pager", "--offline=true", "--threshold=20"]).arg(&unit);
        let Ok(answer) = command.output() else {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"left out: systemd-analyze is missing; install it with: apt-get install systemd\n",
            );
            return;
        };
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stdout));
    }
}
