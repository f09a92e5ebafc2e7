//! Segments in files of other segments' names: files were renamed, or put back under wrong names.
//!
//! A header says which segment it is, so each can be given its own name back. Two that have each other's names go through
//! an intermediate name, `<right name>.misplaced`: a crash leaves some of them, and the next repair finishes.

use std::collections::BTreeMap;

use super::action::Action;
use crate::{
    Result, Sequence,
    error::{Operation, storage_error},
    pieces::{open, sync_directory},
    segment::{file_name, find_header, list_segments, parse_file_name},
    storage::Storage,
};

pub(crate) const SUFFIX: &str = ".misplaced";

/// Gives segments their own names, or only says which it would; returns what was done.
pub(crate) fn put_right(storage: &dyn Storage, dry_run: bool) -> Result<Vec<Action>> {
    let misnamed = misnamed(storage)?;
    if !dry_run {
        for (&file, &right) in &misnamed {
            storage
                .rename(&file_name(file), &aside_name(right))
                .map_err(storage_error(Operation::Rename, &file_name(file)))?;
        }
        sync_directory(storage)?;
    }
    let mut actions = Vec::new();
    for (&file, &right) in &misnamed {
        actions.push(Action::Rename { file: file_name(file), renamed_to: file_name(right) });
    }
    let names = storage.list().map_err(storage_error(Operation::List, "the directory"))?;
    for aside in &names {
        let Some(right) = aside.strip_suffix(SUFFIX).filter(|right| parse_file_name(right).is_some()) else { continue };
        if names.iter().any(|name| name == right) {
            let reason = format!("it is the segment {right}, and there is one: compare them, and remove this one");
            actions.push(Action::Leave { file: aside.clone(), offset: 0, reason });
            continue;
        }
        if !dry_run {
            storage.rename(aside, right).map_err(storage_error(Operation::Rename, aside))?;
        }
        if !misnamed.values().any(|&known| file_name(known) == right) {
            actions.push(Action::Rename { file: aside.clone(), renamed_to: right.to_owned() });
        }
    }
    if !dry_run {
        sync_directory(storage)?;
    }
    Ok(actions)
}

/// The intermediate name of a segment.
fn aside_name(right: Sequence) -> String {
    format!("{}{SUFFIX}", file_name(right))
}

/// Which files hold other segments than they are named for, where each can have its own name.
fn misnamed(storage: &dyn Storage) -> Result<BTreeMap<Sequence, Sequence>> {
    let segments = list_segments(storage)?;
    let mut misnamed = BTreeMap::new();
    for &named in &segments {
        let name = file_name(named);
        match open(storage, &name).and_then(|file| find_header(storage, &name, file.as_ref())) {
            Ok(found) if found.header.first_sequence != named => {
                misnamed.insert(named, found.header.first_sequence);
            }
            Ok(_) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    let names = storage.list().map_err(storage_error(Operation::List, "the directory"))?;
    // Of two copies of a segment one stays where it is, and a name that is rightly taken is not free. Nor is one whose
    // intermediate name is taken: what an earlier repair left there would be overwritten.
    loop {
        let is_free = |right: Sequence| {
            let is_kept_aside = names.iter().any(|name| *name == aside_name(right));
            !is_kept_aside && (!segments.contains(&right) || misnamed.contains_key(&right))
        };
        let is_first = |file: Sequence, right: Sequence| {
            misnamed.iter().find(|(_, other)| **other == right).map(|(&f, _)| f) == Some(file)
        };
        let stuck = misnamed.iter().find(|&(&file, &right)| !is_free(right) || !is_first(file, right));
        let Some((&file, _)) = stuck else { return Ok(misnamed) };
        misnamed.remove(&file);
    }
}
