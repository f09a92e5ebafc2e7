//! A real PostgreSQL server of a test's own: Debian's package, a cluster in a folder that goes away with it.
//!
//! The server listens on a TCP port of loopback and on a Unix socket in its folder. It refuses to run as root, so for
//! root it runs as the package's user `postgres`, or as `nobody`. Where the package is missing, the test prints
//! what to type.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::installed::in_path;
use crate::port::ReservedPort;
use crate::recordings;

/// The user that tests log in as.
pub const USER: &str = "sidecar";
/// That user's password, which must turn up nowhere.
pub const PASSWORD: &str = "s3cret-p@ssw0rd";
/// The database that is there from the beginning.
pub const DATABASE: &str = "events";

/// How long a start or an end may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The user `nobody` and its group, where the package's own user is missing.
const NOBODY: (u32, u32) = (65_534, 65_534);

/// How the server is set up.
#[derive(Debug, Default)]
pub struct PostgreSqlOptions {
    /// A server certificate and its key in PEM form; with them the server has TLS.
    pub certificate: Option<(String, String)>,
    /// Lines for `postgresql.conf`.
    pub settings: String,
    /// Whether connections without TLS are refused.
    pub only_tls: bool,
}

/// A server, running or stopped, killed when this is dropped.
pub struct PostgreSql {
    binaries: PathBuf,
    folder: TempDir,
    port: ReservedPort,
    account: Option<(u32, u32)>,
    server: Option<Child>,
}

impl PostgreSql {
    /// Makes a cluster and starts its server.
    pub fn start() -> Self {
        Self::with(&PostgreSqlOptions::default())
    }

    /// The same with options.
    pub fn with(options: &PostgreSqlOptions) -> Self {
        let binaries = binaries();
        let folder = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let account = rustix::process::geteuid().is_root().then(account);
        let mut server = Self { binaries, folder, port: ReservedPort::new(), account, server: None };
        server.give_to_account(server.folder.path());
        server.initialise(options);
        server.start_again();
        server.psql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        server
    }

    fn initialise(&self, options: &PostgreSqlOptions) {
        let password_file = self.write("password", PASSWORD);
        self.run(
            self.command("initdb")
                .args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--wal-segsize=1"])
                .arg(format!("--username={USER}"))
                .arg(format!("--pwfile={}", password_file.display()))
                .arg("--pgdata")
                .arg(self.data()),
        );
        let mut settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\nmax_wal_size = '32MB'\n\
             min_wal_size = '2MB'\nlog_statement = none\n{}\n",
            self.port.number(),
            self.folder.path().display(),
            options.settings,
        );
        if let Some((certificate, key)) = &options.certificate {
            self.write("data/server.crt", certificate);
            self.write("data/server.key", key);
            settings += "ssl = on\n";
        }
        let path = self.data().join("postgresql.conf");
        settings.insert_str(0, &std::fs::read_to_string(&path).unwrap());
        self.write("data/postgresql.conf", &settings);
        let host = if options.only_tls { "hostssl" } else { "host" };
        self.write("data/pg_hba.conf", &format!("local all all trust\n{host} all all 127.0.0.1/32 scram-sha-256\n"));
    }

    /// The port on loopback that it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// A `[storage.postgresql_config]` for [`DATABASE`].
    pub fn section(&self) -> String {
        format!(
            "[storage.postgresql_config]\nhost = '127.0.0.1'\nport = {}\ndatabase_name = '{DATABASE}'\n\
             database_username = '{USER}'\ndatabase_password = '{PASSWORD}'\n",
            self.port()
        )
    }

    /// What a client needs to log in to a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://{USER}:{}@127.0.0.1:{}/{database}", PASSWORD.replace('@', "%40"), self.port())
    }

    /// Runs SQL and gives what it prints: a line per row, columns with `|` between.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.run_sql(database, sql, "|", "\n")
    }

    /// The rows that a statement gives, their columns as texts, which may hold anything but the separators of ASCII.
    pub fn query(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        let printed = self.run_sql(database, sql, "\u{1f}", "\u{1e}");
        let Some(rows) = printed.strip_suffix('\n') else { return Vec::new() };
        rows.split('\u{1e}').map(|row| row.split('\u{1f}').map(str::to_owned).collect()).collect()
    }

    fn run_sql(&self, database: &str, sql: &str, between_columns: &str, between_rows: &str) -> String {
        self.run(
            self.command("psql")
                .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
                .args(["--field-separator", between_columns, "--record-separator", between_rows, "--host"])
                .arg(self.folder.path())
                .args(["--port", &self.port().to_string(), "--username", USER, "--dbname", database, "--command", sql]),
        )
    }

    /// Fills an empty database with what the reference wrote into it: its tables and ten events.
    pub fn fill_as_the_reference(&self, database: &str) {
        let text = |file| String::from_utf8(recordings::transcript(file)).unwrap();
        self.psql(database, &text("postgres-schema.sql"));
        // It was written down from SQLite, whose rows differ in how they are inserted.
        let dump = recordings::sqlite_dump();
        let rows = dump.lines().filter(|line| line.starts_with("INSERT INTO") && !line.contains("sqlite_sequence"));
        let rows: String = rows
            .map(|row| {
                let (table, values) = row["INSERT INTO ".len()..].split_once(" VALUES").unwrap();
                format!(
                    "INSERT INTO \"{table}\" VALUES{};",
                    values.replace("(1,1);", "(1,true);").trim_end_matches(';')
                )
            })
            .collect();
        self.psql(database, &format!("{rows} SELECT setval('event_log_event_log_id_seq', 10);"));
    }

    /// The schema of a database as `pg_dump` prints it.
    pub fn schema(&self, database: &str) -> String {
        self.run(
            self.command("pg_dump")
                .args(["--schema-only", "--no-owner", "--no-privileges", "--host"])
                .arg(self.folder.path())
                .args(["--port", &self.port().to_string(), "--username", USER, database]),
        )
    }

    /// Stops at once, as in a crash: every connection breaks and nothing is finished.
    pub fn stop_at_once(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        kill_process(Pid::from_child(&server), Signal::QUIT).unwrap();
        server.wait().unwrap();
    }

    /// Starts after a stop, and waits until it answers.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "only what has stopped can be started");
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.server = Some(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        let mut ready = self.command("pg_isready");
        ready
            .args(["--quiet", "--username", USER])
            .arg("--host")
            .arg(self.folder.path())
            .args(["--port", &self.port().to_string()]);
        while !ready.status().unwrap().success() {
            assert!(Instant::now() < deadline, "the server did not start:\n{}", self.log_text());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// What the server wrote to its log.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// A folder of the server's user for a test's own purposes, for example a tablespace.
    pub fn make_folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        self.give_to_account(&path);
        path
    }

    /// Gives a file or folder to the server's user.
    pub fn give_to_account(&self, path: &Path) {
        if let Some((user, group)) = self.account {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        self.give_to_account(&path);
        path
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir(self.folder.path()).env_remove("PGPASSWORD").env("LC_ALL", "C");
        if let Some((user, group)) = self.account {
            command.gid(group).uid(user);
        }
        command
    }

    fn run(&self, command: &mut Command) -> String {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for PostgreSql {
    fn drop(&mut self) {
        self.stop_at_once();
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the end of PostgreSQL's log ---\n{}\n---",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
}

/// The folder with the newest version's programs.
fn binaries() -> PathBuf {
    installed().unwrap_or_else(|| {
        panic!("this test needs a PostgreSQL server; install the package that has one: apt-get install postgresql");
    })
}

fn installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((version, entry.path().join("bin")))
    });
    let newest = debian.filter(|(_, folder)| folder.join("initdb").exists()).max();
    newest.map(|(_, folder)| folder).or_else(|| Some(in_path("initdb")?.parent()?.to_owned()))
}

/// The numbers of the user that the server runs as when the test is root's.
fn account() -> (u32, u32) {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let numbers = |line: &str| {
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    accounts.lines().find(|line| line.starts_with("postgres:")).and_then(numbers).unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_survives_a_crash_with_what_was_committed() {
        let mut server = PostgreSql::start();
        server.psql(DATABASE, "CREATE TABLE t AS SELECT 7 AS n");
        server.stop_at_once();
        server.start_again();
        assert_eq!(server.psql(DATABASE, "SELECT n FROM t"), "7\n");
    }
}
