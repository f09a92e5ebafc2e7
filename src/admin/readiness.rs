//! Whether the parts work: look-ups see what is stored, the logs' storage works, and the node of the JSON-RPC
//! servers or the database of the REST server is there. A full disk is waited for, and what is stored is served meanwhile.

use super::{Logged, Parts, Role};
use crate::casper::rpc::{self, LinkState};

/// Largest lag, in events, at which the process is ready. Look-ups wait until a smaller lag is read, and fail at a larger
/// one.
const READY_LAG_EVENTS_MAX: u64 = 100_000;

/// Why the process is not ready, as far as its parts know already; `None` while it is.
pub(super) fn why_not_ready(parts: &Parts) -> Option<String> {
    match &parts.database {
        Some(database) if !database.has_answered() => Some("the database does not answer".to_owned()),
        _ => parts.logs.iter().find_map(unready).or_else(|| parts.rpc.as_ref().and_then(lost_node)),
    }
}

/// What the first log that has lost events has lost.
pub(super) fn lost_events(parts: &Parts) -> Option<String> {
    let of_log = |logged: &Logged| Some(format!("log {}: {}", logged.name, logged.log.losses().summary()?));
    parts.logs.iter().find_map(of_log)
}

/// Why not everything works around a log.
fn unready(logged: &Logged) -> Option<String> {
    let why = stopped_ingest(logged).or_else(|| closed_views(logged)).or_else(|| late_view(logged))?;
    Some(format!("log {}: {why}", logged.name))
}

fn stopped_ingest(logged: &Logged) -> Option<String> {
    let why = logged.ingest.stopped.reason()?;
    Some(format!("nothing is stored, what is stored is served: {why}"))
}

fn lost_node(rpc: &rpc::Watch) -> Option<String> {
    let state = match rpc.link.state() {
        LinkState::Connected => return None,
        LinkState::Connecting => "is being connected to",
        LinkState::Away => "cannot be reached",
    };
    Some(format!("the node's binary port {} {state}", rpc.link.node()))
}

fn closed_views(logged: &Logged) -> Option<String> {
    let why = logged.views.as_ref()?.closed()?;
    Some(format!("the views are not open: {why}"))
}

fn late_view(logged: &Logged) -> Option<String> {
    let mut views = logged.followers.iter().filter(|follower| follower.role == Role::View);
    views.find_map(|view| {
        let behind = view.lag(&logged.log);
        let is_late = behind > READY_LAG_EVENTS_MAX;
        is_late.then(|| format!("the view {} is {behind} events behind the log", view.name))
    })
}
