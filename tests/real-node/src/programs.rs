//! The programs that take part: found where an earlier run left them, or built from their registry packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A program of the registry, in the version that this crate was written for.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    version: &'static str,
    /// What its build needs of the compiler.
    rust_flags: &'static str,
}

/// The node.
pub(crate) const NODE: Package = Package {
    name: "casper-node",
    version: "2.0.3",
    // wasmer-vm 5.0.6 names a symbol that Rust 1.95 no longer has. Only the disabled second VM would call it.
    rust_flags: "-C link-arg=-Wl,--defsym=__rust_probestack=0",
};

/// The client.
pub(crate) const CLIENT: Package = Package { name: "casper-client", version: "5.0.1", rust_flags: "" };

impl Package {
    /// Where it is; it is built when it is not there.
    pub(crate) fn find(&self, given: Option<PathBuf>) -> Result<PathBuf> {
        let root = beside_this_program()?.join("real-node");
        let path = given.unwrap_or_else(|| root.join("bin").join(self.name));
        if !path.exists() {
            self.build(&root)?;
        }
        ensure!(path.exists(), "there is no {}; name an existing program or none", path.display());
        Ok(path)
    }

    fn build(&self, root: &Path) -> Result<()> {
        eprintln!("building {} {} into {}; this takes minutes", self.name, self.version, root.display());
        let mut command = cargo();
        command.args(["install", self.name, "--version", self.version, "--locked", "--root"]).arg(root);
        command.env("RUSTFLAGS", self.rust_flags).env("CARGO_PROFILE_RELEASE_LTO", "off");
        command.env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        run(&mut command)
    }
}

/// The sidecar of this workspace, in the profile that this program was built in.
pub(crate) fn sidecar(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path);
    }
    let folder = beside_this_program()?;
    let mut command = cargo();
    command.args(["build", "--workspace", "--bin", "sidecar"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    run(&mut command)?;
    Ok(folder.join("sidecar"))
}

fn beside_this_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().context("this program is in no folder")?.to_owned())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
