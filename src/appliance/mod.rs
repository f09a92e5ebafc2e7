//! The appliance: sources, ingest, log and servers, put together from a configuration.
//!
//! Owns the life of the process: everything is started once, and ends by signal or because all nodes are gone. What happens
//! between, to one log and its nodes, is in [`log_set`](crate::engine::log_set). Data does not pass through here.
//! What a configuration asks of each part is in `plan`, and what becomes of the Casper Sidecar's history in `history`. The
//! logs of the other dialects are put together in `beacon` and `gateway`; `other_logs` has them all. `service_manager`
//! notifies the service manager that started the process.

mod beacon;
mod gateway;
mod history;
mod other_logs;
mod plan;
mod service_manager;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Span, error, info};

use crate::admin::{self, Follower, Logged, NamedFront, Role};
use crate::casper::events;
use crate::casper::export::Exporters;
use crate::casper::rest::{self, LogAnswers, NamedLog, SqlAnswers};
use crate::casper::rpc::{self, Rpc};
use crate::casper::view::CasperViews;
use crate::config::{Config, RestApiServer, SseServer, Storage};
use crate::engine::http::{BindError, front::Front};
use crate::engine::ingest::LiveLog;
use crate::engine::log_set::{LogSet, OpenedLog};
use crate::engine::source::watch::SourceWatch;
use crate::engine::stream::{Hub, Resources};
use crate::engine::view::Views;
use other_logs::OtherLogs;
pub use plan::LOG_NAME;
use plan::Node;
use service_manager::ServiceManager;

/// How long clients of `/events/sidecar` are given to read that it ends.
const FAREWELL: Duration = Duration::from_millis(200);
/// How long the servers may take to let go of their connections at the end.
const SERVERS_END_TIME_MAX: Duration = Duration::from_secs(20);
/// How long the exporters' last transactions may take at the end.
const EXPORT_END_TIME_MAX: Duration = Duration::from_secs(10);

/// The JSON-RPC servers, until this is dropped. They need no log, so none of its failures ends them.
struct RunningRpc {
    watch: rpc::Watch,
    /// Where the main server listens, if there is one.
    address: Option<SocketAddr>,
    /// What the servers count of connections and requests.
    fronts: Vec<NamedFront>,
    _servers: JoinSet<()>,
}

/// Runs the parts that the configuration asks for, until a signal comes (`Ok`) or it cannot continue.
///
/// # Errors
/// In the reference's words (config.md section 3): a part that cannot start, or all nodes unavailable.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let manager = ServiceManager::from_environment();
    let termination = termination()?;
    let end = async {
        termination.await;
        manager.announce_stopping();
    };
    match (&config.sse_server, &config.storage) {
        (Some(sse), Some(storage)) => {
            run_until(config, sse, storage, |_, running| manager.announce_serving(running.logs), end).await
        }
        _ => run_without_casper(config, |running| manager.announce_serving(running.logs), end).await,
    }
}

/// Runs what needs no log of Casper's: the logs of other dialects, the gRPC gateway, the JSON-RPC servers, and REST from a
/// database that other Sidecars fill.
pub(crate) async fn run_without_casper(
    config: &Config,
    started: impl FnOnce(Running),
    end: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let database = answers_from_database(config).await?;
    let decoders = config.storage.as_ref().map_or(1, |storage| storage.log.decode_concurrency);
    let others = OtherLogs::open(config, &Arc::new(Resources::new(decoders)))?;
    let admin = bind_admin(config)?;
    let answers =
        database.clone().map_or(rest::AnswerFrom::OtherLogs(rest::OtherLogs::default()), rest::AnswerFrom::Database);
    let logs: Vec<NamedLog> = others.named().collect();
    let has_logs = !logs.is_empty();
    let rest = config.rest_api_server.as_ref().map(|settings| bind_rest(settings, answers, logs.clone()));
    let rest = rest.transpose()?;
    let rpc = start_rpc(config)?;
    log_addresses(None, rest.as_ref(), admin.as_ref());
    let addresses = Addresses::of(None, rest.as_ref(), admin.as_ref(), rpc.as_ref());
    let running = Running { addresses: others.add_to(addresses), logs };
    let cut = CancellationToken::new();
    let mut servers = JoinSet::new();
    if let Some(admin) = admin {
        let parts = parts(None, &running, rest.as_ref(), rpc.as_ref(), database, &others);
        servers.spawn(admin.run(parts, cut.clone().cancelled_owned()));
    }
    if let Some(rest) = rest {
        servers.spawn(rest.run(cut.clone().cancelled_owned()));
    }
    let mut logs = LogSet::default();
    others.start(&mut logs, &mut servers, &cut)?;
    started(running);
    let outcome = tokio::select! {
        () = end => Outcome::Signal,
        () = all_over(&mut logs), if has_logs => Outcome::NodesUnavailable,
    };
    logs.close().await;
    cut.cancel();
    let _ = tokio::time::timeout(SERVERS_END_TIME_MAX, servers.join_all()).await;
    match outcome {
        Outcome::Signal => Ok(()),
        Outcome::NodesUnavailable => {
            bail!(
                "Error running component 'beacon': every consensus client was given up; look at the lines before, and at \
                   `max_attempts` in `[[beacon.connections]]`"
            )
        }
    }
}

/// Ends when no log is fed any more.
async fn all_over(logs: &mut LogSet) {
    while let Some(over) = logs.next_over().await {
        error!(log = over, "all sources of a log were given up");
    }
}

/// Ends when this log is not fed any more. Others may end without it.
async fn is_over(logs: &mut LogSet, name: &str) {
    while let Some(over) = logs.next_over().await {
        if *over == *name {
            return;
        }
        error!(log = over, "all sources of a log were given up; what it holds is served, and the other logs continue");
    }
}

/// The database that REST answers from, if it does.
async fn answers_from_database(config: &Config) -> anyhow::Result<Option<SqlAnswers>> {
    let Some(RestApiServer { database: Some(database), options }) = &config.rest_api_server else {
        return Ok(None);
    };
    let opened = SqlAnswers::open(database.clone(), options.request_timeout).await;
    opened.map(Some).map_err(|error| anyhow!("Error initializing component 'rest_api_server': {error}"))
}

/// The same with an end of its own, and a look at what runs for a caller that follows it, once all ports are taken.
pub(crate) async fn run_until(
    config: &Config,
    sse: &SseServer,
    storage: &Storage,
    started: impl FnOnce(&LiveLog, Running),
    end: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    // First of all, because the others would make files in its folder.
    if !storage.log.create_if_missing {
        plan::check_there_is_a_log(&plan::log_places(storage).directory())?;
    }
    let mut end = pin!(end);
    let Some(left) = history::import(storage, end.as_mut()).await? else { return Ok(()) };
    let exporters = Exporters::new(storage.exports.clone());
    exporters.check().await.map_err(|error| anyhow!("Error initializing component 'sse_event_server': {error}"))?;
    // After the exporters, which may have made the tables.
    let database = answers_from_database(config).await?;
    plan::check_no_unfinished_import(&plan::log_places(storage).directory())?;
    // The lines of a process with one log do not name it.
    let span = match OtherLogs::are_asked_for(config) {
        true => tracing::info_span!(target: "sidecar", "log", name = LOG_NAME),
        false => Span::none(),
    };
    let options = plan::ingest_options(sse, storage)?;
    // Views and exporters are not there yet, and retention waits for them.
    let starting = Arc::new(AtomicU64::new(0));
    options.retention.needed_from.add(Arc::clone(&starting));
    let opened = OpenedLog::open(options, span)
        .map_err(|error| anyhow!("Error initializing component 'sse_event_server': {error}"))?;
    let live = Arc::clone(&opened.live);
    left.name_if_missing_in(&live.log);
    let nodes = plan::nodes(config, sse, storage, &plan::log_network(config, storage, &live)?);
    let cut = CancellationToken::new();
    let resources = Arc::new(Resources::new(storage.log.decode_concurrency));
    let others = OtherLogs::open(config, &resources)?;
    let outside = Outside { exporters, database, rpc: start_rpc(config)?, resources, others: &others };
    let Serving { mut servers, hub, running } = serve(config, sse, storage, &live, &outside, &nodes, &cut)?;
    starting.store(u64::MAX, Ordering::Release);
    let mut logs = LogSet::default();
    // After all ports are taken: to look for losses takes as long as there are segments.
    logs.start(LOG_NAME, opened, plan::sources(nodes, sse.keep_trying))
        .context("Error initializing component 'sse_event_server': cannot start a thread that looks for losses")?;
    let Outside { exporters, rpc, .. } = outside;
    others.start(&mut logs, &mut servers, &cut)?;
    started(&live, running);
    let exporting = exporters
        .start(&live.log, &live.committed)
        .context("Error initializing component 'sse_event_server': cannot start a thread for an export")?;

    let outcome = tokio::select! {
        () = end.as_mut() => Outcome::Signal,
        () = is_over(&mut logs, LOG_NAME) => Outcome::NodesUnavailable,
    };
    if outcome == Outcome::NodesUnavailable {
        hub.say_farewell();
        tokio::time::sleep(FAREWELL).await;
    }
    logs.close().await;
    exporting.stop(EXPORT_END_TIME_MAX).await;
    if let Some(rpc) = &rpc {
        rpc.watch.log.set(None);
    }
    // The views end once no writer of the log is left.
    drop(live);
    cut.cancel();
    let _ = tokio::time::timeout(SERVERS_END_TIME_MAX, servers.join_all()).await;
    match outcome {
        Outcome::Signal => Ok(()),
        Outcome::NodesUnavailable => {
            bail!("Error running component 'sse_event_server': Connected node(s) are unavailable")
        }
    }
}

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// SIGTERM or SIGINT.
    Signal,
    /// Every node's listener has ended.
    NodesUnavailable,
}

/// What is around the log.
struct Outside<'a> {
    exporters: Exporters,
    /// The database that REST answers from, if it does.
    database: Option<SqlAnswers>,
    /// The JSON-RPC servers, if there are any.
    rpc: Option<RunningRpc>,
    /// What the streams of all logs share.
    resources: Arc<Resources>,
    /// The logs of the other dialects.
    others: &'a OtherLogs,
}

/// Where the servers listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) stream: Option<SocketAddr>,
    pub(crate) rest: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) rpc: Option<SocketAddr>,
    pub(crate) beacon: Option<SocketAddr>,
    pub(crate) grpc: Option<SocketAddr>,
}

/// What a caller can look at once everything is started.
pub(crate) struct Running {
    pub(crate) addresses: Addresses,
    pub(crate) logs: Vec<NamedLog>,
}

/// What reads the log, running.
struct Serving {
    servers: JoinSet<()>,
    hub: Arc<Hub>,
    running: Running,
}

/// Starts everything that reads the log: first all ports are taken, then all are served, until `cut` is cancelled.
fn serve(
    config: &Config,
    sse: &SseServer,
    storage: &Storage,
    live: &LiveLog,
    outside: &Outside<'_>,
    nodes: &[Node],
    cut: &CancellationToken,
) -> anyhow::Result<Serving> {
    // Only look-ups in the log need the views, which catch up when they are opened again.
    let rpc_from_log = config.rpc_server.as_ref().is_some_and(|rpc| rpc.answer_from_log);
    let needs_views = rpc_from_log || (config.rest_api_server.is_some() && outside.database.is_none());
    let views =
        needs_views.then(|| CasperViews::open(plan::view_options(storage), live.log.clone(), live.committed.clone()));
    let views = views.transpose().context("Error initializing component 'rest_api_server'")?;
    if let Some(rpc) = outside.rpc.as_ref().filter(|_| rpc_from_log) {
        rpc.watch.log.set(views.clone().map(|views| rpc::LogAnswers::new(live.log.clone(), views)));
    }
    let followers = followers(views.as_ref().map(CasperViews::views), &outside.exporters);
    for follower in &followers {
        live.needed_from.add(Arc::clone(&follower.next_sequence));
    }
    let sources: Vec<SourceWatch> = nodes.iter().map(Node::watch).collect();
    let admin = bind_admin(config)?;
    let answers = match (&outside.database, &views) {
        (Some(database), _) => Some(rest::AnswerFrom::Database(database.clone())),
        (None, Some(views)) => {
            let (log, decoders) = (live.log.clone(), storage.log.decode_concurrency);
            Some(rest::AnswerFrom::Log(LogAnswers::new(log, views.clone(), sources.clone(), decoders)))
        }
        (None, None) => None,
    };
    let rest = config.rest_api_server.as_ref().zip(answers);
    let casper = NamedLog { name: LOG_NAME.into(), log: live.log.clone(), views: views.clone() };
    let logs: Vec<NamedLog> = std::iter::once(casper).chain(outside.others.named()).collect();
    let rest = rest.map(|(settings, answers)| bind_rest(settings, answers, logs.clone())).transpose()?;
    let resources = Arc::clone(&outside.resources);
    let hub = Arc::new(Hub::new(live.log.clone(), live.committed.clone(), resources, events::READER_CLASSES));
    let stream = events::Server::bind(sse.event_stream_server.clone(), Arc::clone(&hub))
        .context("Error running component 'sse_event_server': Error starting EventStreamServer")?;
    log_addresses(Some(&stream), rest.as_ref(), admin.as_ref());
    let addresses = Addresses::of(Some(&stream), rest.as_ref(), admin.as_ref(), outside.rpc.as_ref());
    let running = Running { addresses: outside.others.add_to(addresses), logs };

    let mut servers = JoinSet::new();
    if let Some(admin) = admin {
        let logged = Logged {
            sources,
            casper_nodes: nodes.iter().map(|node| Arc::clone(&node.counters)).collect(),
            views: views.as_ref().map(|views| views.views().clone()),
            followers,
            exporters: outside.exporters.counters().map(|(name, counters)| (name, Arc::clone(counters))).collect(),
            ..Logged::of(LOG_NAME, live, hub.counters(), stream.counters())
        };
        let Outside { database, rpc, others, .. } = outside;
        let parts = parts(Some((logged, &stream)), &running, rest.as_ref(), rpc.as_ref(), database.clone(), others);
        servers.spawn(admin.run(parts, cut.clone().cancelled_owned()));
    }
    if let Some(rest) = rest {
        servers.spawn(rest.run(cut.clone().cancelled_owned()));
    }
    servers.spawn(stream.run(cut.clone().cancelled_owned()));
    if let Some(views) = views {
        servers.spawn(async move { views.views().ended().await });
    }
    Ok(Serving { servers, hub, running })
}

impl Addresses {
    fn of(
        stream: Option<&events::Server>,
        rest: Option<&rest::Server>,
        admin: Option<&admin::Server>,
        rpc: Option<&RunningRpc>,
    ) -> Self {
        Addresses {
            stream: stream.map(|stream| stream.front().local_addr()),
            rest: rest.map(|rest| rest.front().local_addr()),
            admin: admin.map(|admin| admin.front().local_addr()),
            rpc: rpc.and_then(|rpc| rpc.address),
            beacon: None,
            grpc: None,
        }
    }
}

fn log_addresses(stream: Option<&events::Server>, rest: Option<&rest::Server>, admin: Option<&admin::Server>) {
    let servers = [
        ("event stream", stream.map(events::Server::front)),
        ("REST", rest.map(rest::Server::front)),
        ("admin", admin.map(admin::Server::front)),
    ];
    for (server, front) in servers {
        for address in front.map(Front::addresses).unwrap_or_default() {
            info!("the {server} server listens on {address}");
        }
    }
}

/// What the admin server shows: Casper's log and its event streams, if there are any, and all else that runs.
fn parts(
    casper: Option<(Logged, &events::Server)>,
    running: &Running,
    rest: Option<&rest::Server>,
    rpc: Option<&RunningRpc>,
    database: Option<SqlAnswers>,
    others: &OtherLogs,
) -> admin::Parts {
    let (logged, stream) = casper.unzip();
    admin::Parts {
        logs: logged.into_iter().chain(others.logged()).collect(),
        log_pages: rest::LogPages::new(running.logs.clone(), rest),
        rest: rest.map(rest::Server::counters),
        database,
        rpc: rpc.map(|rpc| rpc.watch.clone()),
        grpc: others.grpc_watch(),
        fronts: fronts(stream, rest, rpc, others),
    }
}

/// What every server counts of connections and requests, but for the admin server, which knows its own.
fn fronts(
    stream: Option<&events::Server>,
    rest: Option<&rest::Server>,
    rpc: Option<&RunningRpc>,
    others: &OtherLogs,
) -> Vec<NamedFront> {
    let stream = stream.map(|stream| ("events", Arc::clone(stream.front().counters())));
    let rest = rest.map(|rest| ("rest", Arc::clone(rest.front().counters())));
    let rpc = rpc.into_iter().flat_map(|rpc| rpc.fronts.iter().cloned());
    stream.into_iter().chain(rest).chain(rpc).chain(others.fronts()).collect()
}

fn bind_admin(config: &Config) -> anyhow::Result<Option<admin::Server>> {
    let admin = config.admin_api_server.as_ref().map(admin::Server::bind);
    admin.transpose().map_err(|error| cannot_run("admin_api_server", error))
}

/// Takes the ports of the JSON-RPC servers and serves them.
fn start_rpc(config: &Config) -> anyhow::Result<Option<RunningRpc>> {
    let Some(settings) = &config.rpc_server else { return Ok(None) };
    let Rpc { servers, watch } =
        Rpc::bind(settings.options.clone()).map_err(|error| cannot_run("rpc_api_server", error))?;
    let is_main = |server: &&rpc::Server| server.role() == rpc::Role::Main;
    let address = servers.iter().find(is_main).map(|server| server.front().local_addr());
    let name = |role| match role {
        rpc::Role::Main => "rpc",
        rpc::Role::Speculative => "rpc_speculative",
    };
    let fronts = servers.iter().map(|server| (name(server.role()), Arc::clone(server.front().counters()))).collect();
    let mut running = JoinSet::new();
    for server in servers {
        for address in server.front().addresses() {
            info!(%address, role = ?server.role(), "JSON-RPC server listens");
        }
        running.spawn(server.run(std::future::pending()));
    }
    Ok(Some(RunningRpc { watch, address, fronts, _servers: running }))
}

fn bind_rest(settings: &RestApiServer, answers: rest::AnswerFrom, logs: Vec<NamedLog>) -> anyhow::Result<rest::Server> {
    let server = rest::Server::bind(settings.options.clone(), answers);
    server.map(|server| server.with_logs(logs)).map_err(|error| cannot_run("rest_api_server", error))
}

fn followers(views: Option<&Views>, exporters: &Exporters) -> Vec<Follower> {
    let view = views.map(|views| Follower { role: Role::View, name: "casper", next_sequence: views.position() });
    let exporters = exporters.counters().map(|(name, counters)| {
        let next_sequence = Arc::clone(&counters.next_sequence);
        Follower { role: Role::Exporter, name, next_sequence }
    });
    view.into_iter().chain(exporters).collect()
}

/// In the reference's words: the component and the system's answer; then what the operator can do.
fn cannot_run(component: &str, error: BindError) -> anyhow::Error {
    let summary = match &error {
        BindError::Address { source, .. } => format!("Error running component '{component}': {source}"),
        BindError::File(_) => format!("Error running component '{component}'"),
    };
    anyhow::Error::new(error).context(summary)
}

/// Ends with SIGTERM or SIGINT.
pub(crate) fn termination() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!("Received {name} signal. Shutting down...");
    })
}
