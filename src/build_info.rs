//! What was built: version, commit, profile and target.
//!
//! The commit is known only to the program's own crate (see `sidecar-build-info`), so that this library is not compiled
//! again with each commit. The program's first act is to [`set`] it.

use std::fmt;
use std::sync::OnceLock;

static BUILD: OnceLock<Build> = OnceLock::new();

/// What was built. Its text is that of `--version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The version of the package.
    pub version: &'static str,
    /// The first digits of the commit, or `unknown`.
    pub commit: &'static str,
    /// `release`, or `debug` where the build has debug assertions.
    pub profile: &'static str,
    /// The processor that it is built for.
    pub architecture: &'static str,
    /// The operating system that it is built for.
    pub system: &'static str,
}

impl Build {
    /// This library, as a part of a program that was built from `commit`.
    #[must_use]
    pub const fn of_commit(commit: &'static str) -> Self {
        Build {
            version: env!("CARGO_PKG_VERSION"),
            commit,
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            architecture: std::env::consts::ARCH,
            system: std::env::consts::OS,
        }
    }
}

impl fmt::Display for Build {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Build { version, commit, profile, architecture, system } = self;
        write!(formatter, "{version} (commit {commit}, {profile} build, {architecture}-{system})")
    }
}

/// Says what this program is. Only the first call counts.
pub fn set(build: Build) {
    let _ = BUILD.set(build);
}

/// What this program is; of an unknown commit before [`set`].
#[must_use]
pub fn build() -> Build {
    BUILD.get().copied().unwrap_or(const { Build::of_commit("unknown") })
}
