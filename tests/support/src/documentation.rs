//! The repository's documents, as their readers use them: links to follow, commands to type, names to look up.
//!
//! In: the Markdown files of the repository. Out: what tests compare with the programs. Tests generate some pages and other
//! files; [`expect_file`] compares such a file with what it should be, or writes it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repository;

/// The environment variable that has tests write the generated files instead of comparing them.
const WRITE_PAGES: &str = "SIDECAR_WRITE_PAGES";
/// Where the repository's files are for readers of the book.
pub const REPOSITORY: &str = "https://github.com/sidecar-log/sidecar/blob/main/";
/// The folders whose pages are read, relative to the repository. Folders below them are not read.
const FOLDERS: [&str; 7] = ["", "docs", "log-format", "fuzz", "tests/real-node", "examples/clients", "packaging"];

/// A Markdown file.
pub struct Page {
    /// The file, relative to the repository.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

/// A fenced block of a page.
pub struct Block<'a> {
    /// The word after the opening fence, such as `sh`.
    pub language: &'a str,
    /// The text between the fences.
    pub text: String,
}

impl Page {
    /// Every page of the repository.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let root = repository();
        let mut pages = Vec::new();
        for folder in FOLDERS {
            let files = std::fs::read_dir(root.join(folder)).into_iter().flatten();
            let files = files.map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
            names.retain(|name| name.ends_with(".md"));
            names.sort();
            pages.extend(names.iter().map(|name| Self::read(&Path::new(folder).join(name))));
        }
        pages
    }

    /// The page at `path`, relative to the repository.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(repository().join(path));
        Self { path: path.to_owned(), text: text.unwrap_or_else(|error| panic!("{}: {error}", path.display())) }
    }

    /// Its fenced blocks.
    #[must_use]
    pub fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut open: Option<Block<'_>> = None;
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(language), None) => open = Some(Block { language: language.trim(), text: String::new() }),
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fenced block has no end", self.path.display());
        blocks
    }

    /// The lines outside its fenced blocks.
    #[must_use]
    pub fn prose(&self) -> String {
        let mut is_fenced = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                is_fenced = !is_fenced;
            } else if !is_fenced {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        prose
    }

    /// What is between backticks in its prose.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.prose().split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// Where its links lead.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        targets.map(|(target, _)| target.to_owned()).collect()
    }

    /// The anchors of its headings, as forges and the book name them.
    #[must_use]
    pub fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_matches('#').trim());
        headings
            .map(|heading| {
                let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
                kept.flat_map(char::to_lowercase).map(|letter| if letter == ' ' { '-' } else { letter }).collect()
            })
            .collect()
    }

    /// The simple commands of its shell blocks, each as words. Comments, redirections and variables before a command are
    /// left out; a pipeline is several commands.
    #[must_use]
    pub fn commands(&self) -> Vec<Vec<String>> {
        let mut commands = Vec::new();
        for block in self.blocks().iter().filter(|block| ["sh", "console"].contains(&block.language)) {
            let text = block.text.replace("\\\n", " ");
            commands.extend(text.lines().flat_map(|line| commands_of(line.strip_prefix("$ ").unwrap_or(line))));
        }
        for command in &mut commands {
            let is_variable = |word: &String| word.split_once('=').is_some_and(|(name, _)| is_variable_name(name));
            let variables = command.iter().take_while(|word| is_variable(word)).count();
            command.drain(..variables);
            if let Some(redirection) = command.iter().position(|word| word.starts_with('>')) {
                command.truncate(redirection);
            }
        }
        commands.retain(|command| !command.is_empty());
        commands
    }
}

/// The commands of a line of shell, up to a comment, each as words.
fn commands_of(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words) = (Vec::new(), Vec::new());
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '|' | ';' | '&') => {
                words.extend(word.take());
                if letter != ' ' {
                    commands.push(std::mem::take(&mut words));
                }
            }
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    assert!(quote.is_none(), "a quote has no end: {line}");
    words.extend(word);
    commands.push(words);
    commands
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
}

/// The arguments that `command` gives to the workspace's program `program`, typed by its name, by a path, or after
/// `cargo run`.
#[must_use]
pub fn arguments_of<'a>(command: &'a [String], program: &str) -> Option<&'a [String]> {
    let (first, rest) = command.split_first()?;
    if first == "sudo" || first == "nice" {
        let program_at = rest.iter().position(|word| word.rsplit('/').next() == Some(program))?;
        return rest.get(program_at + 1..);
    }
    if first == "cargo" && rest.first().is_some_and(|word| word == "run") {
        let end = rest.iter().position(|word| word == "--")?;
        let bin = rest.iter().position(|word| word == "--bin").and_then(|at| rest.get(at + 1));
        return (bin.map_or("sidecar", String::as_str) == program).then(|| rest.get(end + 1..)).flatten();
    }
    (first.rsplit('/').next() == Some(program)).then_some(rest)
}

/// Fails for each command of a page that `binary`, the program `program`, does not take as it is written.
///
/// The program gets `--help` as a last argument: it checks what is before, and does nothing.
pub fn expect_commands_to_be_taken(program: &str, binary: &str) {
    let mut count = 0;
    for page in Page::all() {
        for command in page.commands() {
            let Some(arguments) = arguments_of(&command, program) else { continue };
            let output = Command::new(binary).args(arguments).arg("--help").output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {command:?}\n{errors}", page.path.display());
            count += 1;
        }
    }
    assert!(count >= 5, "the documents have only {count} commands of {program}");
}

/// The page of all commands of `binary`, the program `program`: its own help.
#[must_use]
pub fn command_line_page(program: &str, binary: &str) -> String {
    let mut page = format!(
        "# Command line: {program}\n\n\
         What `{program} --help` and the help of its commands print. A test writes this page: see\n\
         [Testing](testing.md).\n"
    );
    let mut commands = vec![Vec::new()];
    while let Some(command) = commands.pop() {
        let help = help_of(binary, &command);
        let name = std::iter::once(program).chain(command.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
        page.push_str(&format!("\n## {name}\n\n```text\n{help}```\n"));
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        // A further line of a description is indented deeper.
        let listed = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = listed.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        let below: Vec<Vec<String>> = names.map(|name| [command.as_slice(), &[name.to_owned()]].concat()).collect();
        commands.extend(below.into_iter().rev());
    }
    page
}

fn help_of(binary: &str, command: &[String]) -> String {
    let output = Command::new(binary).args(command).arg("--help").env_remove("COLUMNS").output().unwrap();
    assert!(output.status.success(), "{command:?}");
    let help = String::from_utf8(output.stdout).unwrap();
    help.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Fails if the generated file at `path`, relative to the repository, is not `expected`. With `SIDECAR_WRITE_PAGES` in the
/// environment it writes the file.
pub fn expect_file(path: &str, expected: &str) {
    let file = repository().join(path);
    if std::env::var_os(WRITE_PAGES).is_some() {
        std::fs::write(file, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(file).unwrap_or_default();
    let differing = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{path} is not what it should be; run this test again with {WRITE_PAGES}=1, which writes it\n\
         {differing:?}\nIt should be:\n{expected}"
    );
}
