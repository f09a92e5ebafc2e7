//! Notifications to a service manager: that Sidecar serves, what it does, that it is alive, and that it ends.
//!
//! The protocol is systemd's `sd_notify`: datagrams to the socket that `NOTIFY_SOCKET` names. Without that variable
//! nothing is sent. A message that cannot be sent is part of the next one, and affects nothing else.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::casper::rest::NamedLog;

/// How often the manager is notified of what Sidecar does.
const PERIOD: Duration = Duration::from_secs(10);
/// A minute more for the start, which may take hours where history is imported. Several periods, so that one may be late.
const START_EXTENSION: &str = "EXTEND_TIMEOUT_USEC=60000000";

/// The service manager that started this process; one that is never notified where there is none.
pub(super) struct ServiceManager(Option<Notifying>);

struct Notifying {
    shared: Arc<Shared>,
    _ticks: JoinSet<()>,
}

struct Shared {
    socket: UnixDatagram,
    report: Mutex<Report>,
}

/// State to report, and what of it is not sent yet: the manager's queue may be full.
struct Report {
    phase: Phase,
    owed: &'static str,
    sent_state: String,
}

/// Where the process is in its life.
enum Phase {
    Starting,
    Serving(Vec<NamedLog>),
    Stopping,
}

impl ServiceManager {
    /// The manager that the environment names. It is notified by a task of this runtime, which also feeds the
    /// watchdog: a runtime that runs no tasks does not, and the manager restarts the process.
    pub(super) fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(address) = variable("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return ServiceManager(None);
        };
        match connect(&address) {
            Ok(socket) => Self::notifying(socket, watchdog_time(variable)),
            Err(error) => {
                warn!(address, %error, "the service manager cannot be notified; correct or unset NOTIFY_SOCKET");
                ServiceManager(None)
            }
        }
    }

    fn notifying(socket: UnixDatagram, watchdog: Option<Duration>) -> Self {
        let report = Report { phase: Phase::Starting, owed: "", sent_state: String::new() };
        let shared = Arc::new(Shared { socket, report: Mutex::new(report) });
        let ticks = JoinSet::from_iter([tick(Arc::clone(&shared), watchdog)]);
        ServiceManager(Some(Notifying { shared, _ticks: ticks }))
    }

    /// All servers take requests.
    pub(super) fn announce_serving(&self, logs: Vec<NamedLog>) {
        if let Some(Notifying { shared, .. }) = &self.0 {
            shared.enter(Phase::Serving(logs), "READY=1");
        }
    }

    /// The end was asked for.
    pub(super) fn announce_stopping(&self) {
        if let Some(Notifying { shared, .. }) = &self.0 {
            shared.enter(Phase::Stopping, "STOPPING=1\nSTATUS=storing what was received, then closing the logs");
        }
    }
}

/// Notifies the manager at least three times in the time after which its watchdog kills the process.
async fn tick(shared: Arc<Shared>, watchdog: Option<Duration>) {
    let period = watchdog.map_or(PERIOD, |time| PERIOD.min(time / 3)).max(Duration::from_millis(1));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // The clock ticks, and a new task is run.
        if tokio::spawn(async {}).await.is_err() {
            return;
        }
        shared.report(if watchdog.is_some() { "WATCHDOG=1" } else { "" });
    }
}

impl Shared {
    fn enter(&self, phase: Phase, announcement: &'static str) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        (report.phase, report.owed) = (phase, announcement);
        drop(report);
        self.report("");
    }

    /// Sends what the manager does not know yet, and `sign`.
    fn report(&self, sign: &str) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let state = report.state();
        let news = if state == report.sent_state { "" } else { &state };
        let lines: Vec<&str> = [report.owed, news, sign].into_iter().filter(|line| !line.is_empty()).collect();
        if !lines.is_empty() && self.socket.send(lines.join("\n").as_bytes()).is_ok() {
            report.owed = "";
            // More time has to be given again and again.
            if state != START_EXTENSION {
                report.sent_state = state;
            }
        }
    }
}

impl Report {
    /// The state to report in the present phase.
    fn state(&self) -> String {
        match &self.phase {
            Phase::Starting => START_EXTENSION.to_owned(),
            Phase::Serving(logs) => status(logs),
            Phase::Stopping => String::new(),
        }
    }
}

/// The line that `systemctl status` shows.
fn status(logs: &[NamedLog]) -> String {
    let state = |NamedLog { name, log, .. }: &NamedLog| match log.ends() {
        Some((oldest, newest)) => format!("log {name} has events {oldest} to {newest}"),
        None => format!("log {name} is empty"),
    };
    let states: Vec<String> = logs.iter().map(state).collect();
    let states = if states.is_empty() { "no log".to_owned() } else { states.join("; ") };
    format!("STATUS=serving; {states}")
}

/// How long the manager's watchdog waits, if it is for this process.
fn watchdog_time(variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let is_other = variable("WATCHDOG_PID").is_some_and(|id| id.parse() != Ok(std::process::id()));
    let microseconds = variable("WATCHDOG_USEC")?.parse().ok().filter(|microseconds| *microseconds > 0)?;
    (!is_other).then(|| Duration::from_micros(microseconds))
}

/// A path; after an `@`, a name in Linux's abstract namespace.
fn connect(address: &str) -> io::Result<UnixDatagram> {
    let address = match address.strip_prefix('@') {
        None => SocketAddr::from_pathname(address)?,
        Some(name) => abstract_address(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &str) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;

    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &str) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixDatagram, UnixDatagram) {
        let (manager, process) = UnixDatagram::pair().unwrap();
        manager.set_nonblocking(true).unwrap();
        (manager, process)
    }

    /// What was sent since the last look.
    fn messages(manager: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        let messages = std::iter::from_fn(|| manager.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
        messages.map(|message| String::from_utf8(message).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_is_given_more_time_until_it_serves_and_then_its_state_is_sent_once() {
        let (manager, process) = pair();
        let service = ServiceManager::notifying(process, None);
        tokio::time::sleep(PERIOD * 2 + PERIOD / 2).await;
        assert_eq!(messages(&manager), ["EXTEND_TIMEOUT_USEC=60000000"; 3]);
        service.announce_serving(Vec::new());
        assert_eq!(messages(&manager), ["READY=1\nSTATUS=serving; no log"]);
        tokio::time::sleep(PERIOD * 3).await;
        assert_eq!(messages(&manager), [""; 0], "the same state is not sent again");
        service.announce_stopping();
        assert!(messages(&manager)[0].starts_with("STOPPING=1\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_full_queue_did_not_take_is_sent_once_there_is_room() {
        let (manager, process) = pair();
        let queue = process.try_clone().unwrap();
        queue.set_nonblocking(true).unwrap();
        let service = ServiceManager::notifying(process, None);
        while queue.send(b"in the way").is_ok() {}
        service.announce_serving(Vec::new());
        assert!(messages(&manager).iter().all(|message| message == "in the way"));
        tokio::time::sleep(PERIOD * 2).await;
        assert_eq!(messages(&manager), ["READY=1\nSTATUS=serving; no log"]);
    }

    #[test]
    fn a_blocked_runtime_does_not_feed_the_watchdog() {
        let (manager, process) = pair();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let service = runtime.block_on(async {
            let service = ServiceManager::notifying(process, Some(Duration::from_millis(3)));
            while messages(&manager).iter().filter(|message| message.contains("WATCHDOG=1")).count() == 0 {
                tokio::task::yield_now().await;
            }
            service
        });
        messages(&manager);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(messages(&manager), [""; 0]);
        drop(service);
    }

    #[test]
    fn a_watchdog_for_another_process_is_ignored() {
        let own = std::process::id().to_string();
        for (microseconds, process, time) in [
            (Some("30000000"), None, Some(30)),
            (Some("30000000"), Some(own.as_str()), Some(30)),
            (Some("30000000"), Some("1"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, None, None),
        ] {
            let variable = |name: &str| match name {
                "WATCHDOG_USEC" => microseconds.map(str::to_owned),
                _ => process.map(str::to_owned),
            };
            assert_eq!(watchdog_time(variable), time.map(Duration::from_secs));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_abstract_name_is_one_of_the_systems_and_not_a_file() {
        let name = format!("sidecar-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&abstract_address(&name).unwrap()).unwrap();
        connect(&format!("@{name}")).unwrap().send(b"READY=1").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(manager.recv(&mut buffer).unwrap(), 7);
    }
}
