//! The commit that a crate is built from, as a macro.
//!
//! A build script would rebuild its whole package, and all that depends on it, with each commit. Here only the crate that
//! uses the macro is compiled again: the expansion includes the files of git that name the commit, so rustc watches them.
//! Nothing here fails: without git the commit is `unknown`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use proc_macro::{Literal, TokenStream};

/// Set by packagers whose source has no git: the commit that they build. Empty is the same as not set.
const OVERRIDE: &str = "SIDECAR_BUILD_COMMIT";
const UNKNOWN: &str = "unknown";
/// Digits of a commit that are shown.
const DIGITS: usize = 12;

/// The commit as a `&'static str`: what the environment variable `SIDECAR_BUILD_COMMIT` says, else the commit that git has
/// checked out, else the one that the published package names, else `unknown`.
#[proc_macro]
pub fn commit(_: TokenStream) -> TokenStream {
    let found = env::var_os("CARGO_MANIFEST_DIR").map(|package| find(Path::new(&package))).unwrap_or_default();
    let watched: String = found.read.iter().filter_map(|file| file.to_str()).map(included).collect();
    let commit = Literal::string(found.commit.as_deref().unwrap_or(UNKNOWN));
    let code = format!(
        "{{ {watched} match option_env!(\"{OVERRIDE}\") {{ None | Some(\"\") => {commit}, Some(commit) => commit }} }}"
    );
    code.parse().unwrap_or_else(|_| TokenStream::from_iter([proc_macro::TokenTree::from(Literal::string(UNKNOWN))]))
}

/// A constant that makes rustc watch a file, and takes no place in the program.
fn included(file: &str) -> String {
    format!("const _: &[u8] = include_bytes!({});", Literal::string(file))
}

/// A commit, and the files that name it.
#[derive(Default)]
struct Found {
    commit: Option<String>,
    read: Vec<PathBuf>,
}

impl Found {
    fn read(&mut self, file: PathBuf) -> Option<String> {
        let text = fs::read_to_string(&file).ok()?;
        self.read.push(file);
        Some(text)
    }
}

/// Looks in the package itself, then in the repository whose root has the workspace's lock file: a repository around that
/// one is of somebody who has a copy of this source.
fn find(package: &Path) -> Found {
    let mut found = Found::default();
    found.commit = match found.read(package.join(".cargo_vcs_info.json")) {
        Some(published) => first_hash(&published),
        None => {
            let root = package.ancestors().find(|directory| directory.join("Cargo.lock").is_file());
            root.and_then(|root| checked_out(root, &mut found))
        }
    };
    found
}

/// The commit that git has checked out in `root`.
fn checked_out(root: &Path, found: &mut Found) -> Option<String> {
    let mut git = root.join(".git");
    if let Some(elsewhere) = found.read(git.clone()) {
        git = root.join(elsewhere.strip_prefix("gitdir:")?.trim());
    }
    let head = found.read(git.join("HEAD"))?;
    let Some(branch) = head.strip_prefix("ref:") else { return first_hash(&head) };
    let branch = branch.trim();
    // A work tree beside the first one shares its branches.
    let common = found.read(git.join("commondir")).map(|common| git.join(common.trim()));
    let common = common.unwrap_or(git);
    if let Some(commit) = found.read(common.join(branch)) {
        return first_hash(&commit);
    }
    let packed = found.read(common.join("packed-refs"))?;
    first_hash(packed.lines().find(|line| line.ends_with(&format!(" {branch}")))?)
}

/// The first word of `text` that can be a commit, shortened.
fn first_hash(text: &str) -> Option<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    let is_hash = |word: &&str| word.len() >= 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    words.into_iter().find(is_hash).and_then(|hash| hash.get(..DIGITS)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A folder with these files, that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let folder = Folder(env::temp_dir().join(format!("sidecar-build-info-{}-{name}", std::process::id())));
            for (file, text) in files {
                let file = folder.0.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            folder
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn commit_in(name: &str, package: &str, files: &[(&str, &str)]) -> Option<String> {
        let folder = Folder::new(name, files);
        find(&folder.0.join(package)).commit
    }

    #[test]
    fn the_commit_of_a_branch_is_found_loose_packed_detached_and_in_another_work_tree() {
        let loose = [("Cargo.lock", ""), (".git/HEAD", "ref: refs/heads/a/b\n"), (".git/refs/heads/a/b", COMMIT)];
        assert_eq!(commit_in("loose", "tools", &loose).as_deref(), Some(&COMMIT[..12]));
        let packed = format!("# pack-refs\n{}1 refs/heads/ab\n{COMMIT} refs/heads/b\n", &COMMIT[..39]);
        let packed = [("Cargo.lock", ""), (".git/HEAD", "ref: refs/heads/b\n"), (".git/packed-refs", &packed)];
        assert_eq!(commit_in("packed", "", &packed).as_deref(), Some(&COMMIT[..12]));
        let detached = [("Cargo.lock", ""), (".git/HEAD", COMMIT)];
        assert_eq!(commit_in("detached", "", &detached).as_deref(), Some(&COMMIT[..12]));
        let other = [
            ("tree/Cargo.lock", ""),
            ("tree/.git", "gitdir: ../main/.git/worktrees/tree\n"),
            ("main/.git/worktrees/tree/HEAD", "ref: refs/heads/b\n"),
            ("main/.git/worktrees/tree/commondir", "../..\n"),
            ("main/.git/refs/heads/b", COMMIT),
        ];
        assert_eq!(commit_in("other", "tree", &other).as_deref(), Some(&COMMIT[..12]));
    }

    #[test]
    fn a_published_package_names_its_commit_and_a_repository_around_it_does_not() {
        let around = [(".git/HEAD", COMMIT), ("source/Cargo.lock", "")];
        assert_eq!(commit_in("around", "source", &around), None);
        let json = format!("{{\"git\": {{\"sha1\": \"{COMMIT}\"}}}}");
        let published = [(".git/HEAD", ""), ("source/Cargo.lock", ""), ("source/.cargo_vcs_info.json", &json)];
        assert_eq!(commit_in("published", "source", &published).as_deref(), Some(&COMMIT[..12]));
    }
}
