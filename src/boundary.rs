//! The boundaries between the parts of this crate, tested: which top-level modules a folder's code may name.
//!
//! The engine knows no chain, the SSE client no dialect, and no dialect another. Comments and strings may speak of anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The folders of the dialects.
const DIALECTS: [&str; 3] = ["beacon", "casper", "grpc"];

/// Modules that anything may name, because they name nothing of this crate themselves.
const LEAVES: [&str; 1] = ["rfc3339"];

#[test]
fn no_part_names_what_it_must_not_know() {
    let modules = top_level_modules();
    assert!(modules.contains("engine") && modules.contains("casper"), "{modules:?}");
    let all_but = |allowed: &[&str]| -> Vec<String> {
        let is_allowed = |module: &str| allowed.contains(&module) || LEAVES.contains(&module);
        modules.iter().filter(|module| !is_allowed(module)).cloned().collect()
    };
    let others_of = |dialect: &str| DIALECTS.into_iter().filter(|other| *other != dialect).map(str::to_owned).collect();
    let mut rules = vec![("engine", all_but(&["engine"])), ("sse_client", all_but(&["engine", "sse_client"]))];
    rules.extend(DIALECTS.map(|dialect| (dialect, others_of(dialect))));

    let mut found = BTreeSet::new();
    for (folder, forbidden) in rules {
        for file in source_files(&root().join("src").join(folder)) {
            let named = named_modules(&std::fs::read_to_string(&file).unwrap());
            let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.extend(
                forbidden.iter().filter(|module| named.contains(*module)).map(|module| (name.clone(), module.clone())),
            );
        }
    }
    assert!(found.is_empty(), "these files name modules that they must not know: {found:?}");
}

#[test]
fn what_anything_may_name_names_nothing_itself() {
    for leaf in LEAVES {
        let named =
            named_modules(&std::fs::read_to_string(root().join("src").join(leaf).with_extension("rs")).unwrap());
        assert!(named.is_empty(), "{leaf} names {named:?}");
    }
}

#[test]
fn the_log_format_names_nothing_of_this_crate() {
    for file in source_files(&root().join("log-format/src")) {
        let code = code_of(&std::fs::read_to_string(&file).unwrap());
        assert!(!tokens(&code).iter().any(|token| token == "sidecar"), "{}", file.display());
    }
}

#[test]
fn modules_are_found_wherever_code_names_them() {
    for code in [
        "use crate::casper::event;",
        "use crate::{engine::source, casper::{event, keys}};",
        "use crate::{\n    engine::{ingest, view},\n    casper,\n};",
        "fn f() -> crate::casper::Kind { 'a'; '\"'; crate :: casper :: f() }",
        "use super::super::casper::event;",
        "let text = \"//\"; crate::casper::f();",
    ] {
        assert!(named_modules(code).contains("casper"), "{code}");
    }
    for code in [
        "//! See [crate::casper::event].",
        "/* crate::casper */ let text = \"crate::casper\";",
        "let text = r#\"a \" crate::casper\"#;",
        "use crate::engine::casper;",
        "use crate::{engine::{casper, view}};",
        "use super::casper;",
    ] {
        assert!(!named_modules(code).contains("casper"), "{code}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn top_level_modules() -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// All Rust files in a folder, which may be missing.
fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules directly after `crate`, or after so many `super` that they may be at the top.
fn named_modules(source: &str) -> BTreeSet<String> {
    let tokens = tokens(&code_of(source));
    let mut named = BTreeSet::new();
    for (place, token) in tokens.iter().enumerate() {
        let is_root = token == "crate" || (token == "super" && place >= 2 && tokens[place - 2] == "super");
        if !is_root || tokens.get(place + 1).is_none_or(|next| next != "::") {
            continue;
        }
        let mut rest = tokens[place + 2..].iter();
        match rest.next() {
            Some(open) if open == "{" => {
                let mut depth = 1;
                let mut is_first = true;
                for token in rest {
                    match token.as_str() {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        "," if depth == 1 => is_first = true,
                        name if depth == 1 && is_first => {
                            named.insert(name.to_owned());
                            is_first = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            Some(name) => {
                named.insert(name.clone());
            }
            None => {}
        }
    }
    named
}

/// Names, `::` and single other characters.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut continues = false;
    for character in code.chars() {
        let is_of_name = character.is_alphanumeric() || character == '_';
        match tokens.last_mut() {
            Some(last) if continues && is_of_name => last.push(character),
            Some(last) if character == ':' && last == ":" => last.push(':'),
            _ if character.is_whitespace() => {}
            _ => tokens.push(character.to_string()),
        }
        continues = is_of_name;
    }
    tokens
}

/// The source without its comments, strings and quoted characters.
fn code_of(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(character) = rest.chars().next() {
        let hashes = rest.strip_prefix('r').map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
        let skipped = if rest.starts_with("//") {
            rest.find('\n')
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|end| end + 2)
        } else if rest.starts_with('r') && rest[1 + hashes..].starts_with('"') && !code.ends_with(char::is_alphanumeric)
        {
            let end = format!("\"{}", "#".repeat(hashes));
            rest[2 + hashes..].find(&end).map(|at| 2 + hashes + at + end.len())
        } else if rest.starts_with('"') {
            end_of_string(rest)
        } else if rest.starts_with("'\"'") {
            Some(3)
        } else if let Some(escaped) = rest.strip_prefix("'\\") {
            escaped.find('\'').map(|end| end + 3)
        } else {
            code.push(character);
            Some(character.len_utf8())
        };
        rest = skipped.map_or("", |length| &rest[length..]);
    }
    code
}

fn end_of_string(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().skip(1).find_map(|(at, character)| {
        let ends = character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        ends.then_some(at + 1)
    })
}
