//! Manual pages, one for each program and subcommand.
//!
//! clap_mangen writes what clap knows. The text after a command's help is free text to clap; a manual page would join its
//! lines. Here its examples stay lines, and its exit status gets a section.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

/// Begins the paragraph with the examples, one a line.
const EXAMPLES: &str = "Examples:";
/// Begins the paragraph about the exit status.
const EXIT_STATUS: &str = "Exit status:";

/// Writes the pages of `command`, which is built, and of its subcommands into `folder`.
pub(crate) fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, folder)?;
    }
    let page = Man::new(command.clone());
    let mut file = BufWriter::new(File::create(folder.join(page.get_filename()))?);
    page.render_title(&mut file)?;
    page.render_name_section(&mut file)?;
    page.render_synopsis_section(&mut file)?;
    page.render_description_section(&mut file)?;
    page.render_options_section(&mut file)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut file)?;
    }
    if let Some(text) = command.get_after_help() {
        write_text(&text.to_string(), &mut file)?;
    }
    file.flush()
}

fn write_text(text: &str, page: &mut impl Write) -> io::Result<()> {
    let mut has_notes = false;
    for paragraph in text.split("\n\n") {
        if let Some(examples) = paragraph.strip_prefix(EXAMPLES) {
            writeln!(page, ".SH EXAMPLES\n.nf")?;
            for line in examples.trim_start_matches('\n').lines() {
                writeln!(page, "{}", escaped(line))?;
            }
            writeln!(page, ".fi")?;
        } else if let Some(status) = paragraph.strip_prefix(EXIT_STATUS) {
            writeln!(page, ".SH \"EXIT STATUS\"\n.PP\n{}", escaped(status.trim_start()))?;
        } else {
            let section = if has_notes { "" } else { ".SH NOTES\n" };
            has_notes = true;
            writeln!(page, "{section}.PP\n{}", escaped(paragraph))?;
        }
    }
    Ok(())
}

/// The line or lines as roff shows them unchanged.
fn escaped(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_lines_and_the_exit_status_gets_a_section() {
        let mut page = Vec::new();
        let text = "Examples:\n  a --b | jq '.c'\n  .d\n\nOf a \\ and\n'quoted'.\n\nMore.\n\nExit status: 0; 1 if not.";
        write_text(text, &mut page).unwrap();
        assert_eq!(
            String::from_utf8(page).unwrap(),
            ".SH EXAMPLES\n.nf\n  a \\-\\-b | jq '.c'\n  .d\n.fi\n.SH NOTES\n.PP\nOf a \\e and\n\\&'quoted'.\n.PP\nMore.\n\
             .SH \"EXIT STATUS\"\n.PP\n0; 1 if not.\n"
        );
    }
}
