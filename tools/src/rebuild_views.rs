//! `rebuild-views`: rebuilds the views of a log, with a bar to watch.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use indicatif::HumanBytes;
use serde::Serialize;
use sidecar::{
    casper::view,
    engine::{storage_folder::LogPlaces, view::Options},
};
use sidecar_log_format::{
    Error, Log, ReadOptions,
    storage::{Directory, Storage},
};

use crate::{LogArgument, locate, print, print_json};

/// Enough that the inner pages of the views of a hundred million events stay in memory.
const CACHE_BYTES: usize = 256 << 20;

#[derive(clap::Args)]
pub(crate) struct RebuildViewsArguments {
    #[command(flatten)]
    log: LogArgument,
    /// The views' file. Default: `STORAGE_PATH/views/LOG.redb`, where the sidecar has it.
    #[arg(long, value_name = "FILE")]
    views: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    file: String,
    events: u64,
    bytes: u64,
}

/// Rebuilds the views; the log must have no writer meanwhile.
pub(crate) fn rebuild_views(arguments: &RebuildViewsArguments, out: &mut impl Write) -> anyhow::Result<()> {
    let directory = locate::log_directory(&arguments.log.path)?;
    let path = match &arguments.views {
        Some(path) => path.clone(),
        None => views_of(&directory)?,
    };
    let storage: Arc<dyn Storage> = Arc::new(Directory::at(directory));
    let lock = storage.lock().with_context(|| format!("cannot lock {}", storage.name()))?;
    let Some(_lock) = lock else { return Err(Error::Locked { directory: storage.name() }.into()) };
    let log = Log::open(storage, ReadOptions::default())?;

    let bar = print::event_bar("rebuilding", None);
    let mut events = 0;
    view::rebuild(&Options::new(path.clone(), CACHE_BYTES), &log, &mut |progress| {
        bar.set_length(progress.events_total);
        bar.set_position(progress.events);
        events = progress.events;
    })?;
    bar.finish_and_clear();
    let bytes = fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?.len();
    let made = Made { file: path.display().to_string(), events, bytes };
    match arguments.json {
        true => print_json(out, &made)?,
        false => writeln!(out, "{}: the views of {events} events, {}", made.file, HumanBytes(bytes))?,
    }
    Ok(())
}

/// Where the sidecar has the views of the log at `<storage_path>/logs/<log>`.
fn views_of(log: &Path) -> anyhow::Result<PathBuf> {
    let log = fs::canonicalize(log).with_context(|| format!("cannot read {}", log.display()))?;
    let Some(places) = LogPlaces::of(&log) else {
        bail!(
            "{} is not in a storage path's logs directory, so its views could be anywhere: name their file with --views",
            log.display()
        );
    };
    Ok(places.views_file())
}
