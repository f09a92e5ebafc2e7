//! Programs of this machine that tests use where they are installed.

use std::path::PathBuf;
use std::process::Command;

/// The program of this name in `PATH`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.exists())
}

/// A Python that can import `modules` (`requests, sseclient`): the one at `own`, where `.ci/run` puts it, or `python3`.
pub fn python_with<'a>(own: &'a str, modules: &str) -> Option<&'a str> {
    let has_modules = |python: &&str| {
        let imports = Command::new(python).args(["-c", &format!("import {modules}")]).output();
        imports.is_ok_and(|output| output.status.success())
    };
    [own, "python3"].into_iter().find(has_modules)
}
