//! A small disk for tests of what happens when it is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own, in memory, unmounted when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    /// The folder that it is mounted in, if that was made for it.
    _parent: Option<tempfile::TempDir>,
}

impl SmallDisk {
    /// Mounts one of `bytes` in a temporary folder. `None` where mounting is not permitted.
    pub fn mount(bytes: u64) -> Option<Self> {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("disk");
        fs::create_dir(&path).unwrap();
        let mut disk = Self::mount_on(path, bytes)?;
        disk._parent = Some(parent);
        Some(disk)
    }

    /// Mounts one on an existing folder; every user may write there. `None` where mounting is not permitted.
    pub fn mount_on(path: PathBuf, bytes: u64) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0777"), "tmpfs"]).arg(&path);
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then(|| SmallDisk { path, _parent: None })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still be there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
