//! PostgreSQL: a server that is slow, away, silent, or not the right one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sidecar_test_support::client::get;
use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::postgresql::{DATABASE, PASSWORD, PostgreSql, PostgreSqlOptions};
use sidecar_test_support::process::{Sidecar, SidecarBuilder};
use sidecar_test_support::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::questions::{
    NO_DATABASE, PATIENCE, assert_only_in_log, assert_recorded_answers, assert_same_answers, exported, payloads,
    sidecar, wait_for_status,
};

/// How long the answer to a request in trouble may take.
const BOUND: Duration = Duration::from_secs(10);

/// A server with the database that the reference has filled.
fn filled() -> PostgreSql {
    let server = PostgreSql::start();
    server.fill_as_the_reference(DATABASE);
    server
}

/// Without nodes and log: `section` has the place of the database.
fn rest_alone(section: &str) -> SidecarBuilder {
    rest_alone_with(section, "")
}

/// The same with further keys of the REST server.
fn rest_alone_with(section: &str, keys: &str) -> SidecarBuilder {
    let builder = sidecar().without_sse_server().sections(section);
    builder.rest_api_with(&format!("answer_from = 'postgresql'\n{keys}"))
}

/// Makes a user who may read the tables and nothing else; returns the section with that user. `options` are the role's.
fn reader(server: &PostgreSql, options: &str) -> String {
    let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader";
    server.psql(DATABASE, &format!("CREATE ROLE reader LOGIN {options} PASSWORD '{PASSWORD}'; {grant}"));
    server.section().replace("database_username = 'sidecar'", "database_username = 'reader'")
}

/// A sidecar that has exported these payloads to the server, and answers from its log.
async fn exported_to(server: &PostgreSql, payloads: &[String]) -> (SimulatedNode, Sidecar) {
    let made = r#"SELECT count(*) FROM "pg_tables" WHERE "tablename" = 'sidecar_checkpoint'"#;
    let checkpoint = r#"SELECT "next_sequence" FROM "sidecar_checkpoint""#;
    exported(sidecar().sections(&server.section()), payloads, || {
        let is_made = server.psql(DATABASE, made) != "0\n";
        if is_made { server.psql(DATABASE, checkpoint).trim().parse().unwrap_or_default() } else { 0 }
    })
    .await
}

/// Long enough for a new session on a machine with other things to do: half of it is that session's.
const LIMITED: &str = "request_timeout_in_seconds = 4";

/// Makes a question for a step take longer than any client waits.
const SLOW_STEP: &str = r#"
    ALTER TABLE "Step" RENAME TO "fast"; CREATE VIEW "Step" AS SELECT "fast".* FROM "fast", pg_sleep(600);
"#;

/// Waits until the server works on a question.
async fn wait_until_asked(server: &PostgreSql) {
    let active = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sidecar' AND wait_event = 'PgSleep'";
    until(PATIENCE, "a question in work", async || server.psql(DATABASE, active) == "1\n").await;
}

#[tokio::test]
async fn answers_are_those_from_the_log_byte_for_byte() {
    let server = PostgreSql::start();
    let payloads = payloads();
    let (_node, from_log) = exported_to(&server, &payloads).await;
    let mut from_postgresql = rest_alone(&reader(&server, "")).start().await;

    let sessions = || {
        server.psql(
            DATABASE,
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'sidecar' AND usename = 'reader'",
        )
    };
    let first_session = sessions();
    assert_same_answers(&from_log, &from_postgresql, &payloads).await;

    assert_eq!(sessions(), first_session, "one session has answered everything");

    assert!(from_postgresql.terminate().success());
    assert!(!from_postgresql.output().contains(PASSWORD));
    assert!(!from_postgresql.storage_path().exists(), "no log is made");
}

#[tokio::test]
async fn what_the_tables_do_not_hold_is_refused_with_what_to_ask_instead() {
    let server = filled();
    let sidecar = rest_alone(&server.section()).admin_api().start().await;
    assert_only_in_log(&sidecar, "PostgreSQL").await;
    assert_eq!(get(sidecar.admin_address(), "/ready").await.body, "ready");
}

#[tokio::test]
async fn a_database_that_the_reference_filled_gives_the_references_recorded_answers() {
    let server = filled();
    let sidecar = rest_alone(&server.section()).start().await;
    assert_recorded_answers(&sidecar).await;
    // What is there may be anything.
    server.psql(DATABASE, r#"UPDATE "Step" SET "raw" = '{"era_id":1'"#);
    let broken = get(sidecar.rest_address(), "/step/1").await;
    assert_eq!(broken.status, 500);
    assert!(broken.body.contains("Error deserializing returned data: EOF"), "{}", broken.body);
}

#[tokio::test]
async fn while_the_database_is_away_requests_fail_soon_and_then_are_answered_again() {
    let mut server = filled();
    let mut sidecar = rest_alone(&server.section()).admin_api().start().await;
    let address = sidecar.rest_address();
    let block = get(address, "/block").await;
    assert_eq!(block.status, 200);
    for _ in 0..2 {
        server.stop_at_once();
        let begun = Instant::now();
        let targets = ["/block", "/blocks", "/faults/769794", "/step/1", "/block/1"];
        for target in targets.iter().cycle().take(20) {
            let answer = get(address, target).await;
            assert_eq!((answer.status, answer.body.as_str()), (500, NO_DATABASE), "{target}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        // What needs no database continues.
        assert_eq!(get(address, "/other").await.status, 400);
        assert!(get(address, "/status").await.body.ends_with(r#""postgresql":{"status":"unreachable"}}"#));
        assert_eq!(get(sidecar.admin_address(), "/health").await.status, 200);
        let ready = get(sidecar.admin_address(), "/ready").await;
        assert_eq!((ready.status, ready.body.as_str()), (503, "not ready: the database does not answer"));
        let metrics = get(sidecar.admin_address(), "/metrics").await;
        assert!(metrics.body.contains("\nsidecar_rest_database_connected 0\n"));
        server.start_again();
        assert_eq!(wait_for_status(address, "/block", 200).await.body, block.body);
        assert_eq!(get(sidecar.admin_address(), "/ready").await.status, 200);
    }
    sidecar.wait_for_outputs("answers again", 2).await;
    assert!(sidecar.terminate().success());
    let output = sidecar.output();
    assert_eq!(output.matches("cannot reach PostgreSQL database").count(), 2, "once each time: {output}");
    assert!(!output.contains(PASSWORD));
}

#[tokio::test]
async fn a_table_that_may_not_be_read_is_one_questions_failure_and_is_refused_at_a_start() {
    let server = filled();
    let section = reader(&server, "");
    let sidecar = rest_alone(&section).admin_api().start().await;
    let session = || server.psql(DATABASE, "SELECT pid FROM pg_stat_activity WHERE usename = 'reader'");
    let first_session = session();
    server.psql(DATABASE, r#"REVOKE SELECT ON "Step" FROM reader"#);
    let refused = r#"{"code":500,"message":"Unhandled error occurred in storage: the database refuses this question; the log of this server says why"}"#;
    for _ in 0..5 {
        let step = get(sidecar.rest_address(), "/step/1").await;
        assert_eq!((step.status, step.body.as_str()), (500, refused));
        let metrics = get(sidecar.admin_address(), "/metrics").await;
        assert!(metrics.body.contains("\nsidecar_rest_database_connected 1\n"), "the others are answered");
        assert_eq!(get(sidecar.rest_address(), "/block").await.status, 200);
    }
    assert_eq!(session(), first_session);
    let output = sidecar.output();
    assert_eq!(output.matches("permission denied for table Step").count(), 1, "{output}");
    assert!(!output.contains("answers again"), "{output}");

    let mut refused = rest_alone(&section).spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    let sentence = "does not let its user read (permission denied for table Step); grant that user SELECT on all of Sidecar's tables";
    assert!(refused.errors().contains(sentence), "{}", refused.errors());

    server.psql(DATABASE, r#"GRANT SELECT ON "Step" TO reader"#);
    assert_eq!(get(sidecar.rest_address(), "/step/1").await.status, 200);
}

#[tokio::test]
async fn a_session_more_than_the_server_lets_us_have_is_no_loss_of_the_database() {
    let server = filled();
    let section = reader(&server, "CONNECTION LIMIT 1");
    server.psql(DATABASE, &format!(r#"{SLOW_STEP} GRANT SELECT ON "Step" TO reader"#));
    let sidecar = rest_alone(&section).admin_api().start().await;
    let address = sidecar.rest_address();
    let slow = tokio::spawn(async move { get(address, "/step/1").await });
    wait_until_asked(&server).await;
    for _ in 0..3 {
        assert_eq!(get(address, "/block").await.status, 500);
    }
    let metrics = get(sidecar.admin_address(), "/metrics").await;
    assert!(metrics.body.contains("\nsidecar_rest_database_connected 1\n"));
    assert_eq!(get(sidecar.admin_address(), "/ready").await.status, 200);
    assert_eq!(sidecar.output().matches("too many connections for role").count(), 1, "{}", sidecar.output());
    slow.abort();
}

#[tokio::test]
async fn a_database_whose_sessions_are_all_busy_is_there() {
    let server = filled();
    server.psql(DATABASE, SLOW_STEP);
    let section = format!("{}max_connections_in_pool = 1\n", server.section());
    let sidecar = rest_alone(&section).admin_api().start().await;
    let address = sidecar.rest_address();
    let slow = tokio::spawn(async move { get(address, "/step/1").await });
    wait_until_asked(&server).await;
    assert_eq!(get(sidecar.admin_address(), "/ready").await.body, "ready");
    assert!(get(address, "/status").await.body.ends_with(r#""postgresql":{"status":"connected"}}"#));
    assert!(!slow.is_finished(), "it was busy until now");
    slow.abort();
}

#[tokio::test]
async fn a_database_that_is_silent_when_it_is_looked_for_is_reported() {
    let server = filled();
    let mut sidecar = rest_alone(&server.section()).admin_api().start().await;
    let session = server.psql(DATABASE, "SELECT pid FROM pg_stat_activity WHERE application_name = 'sidecar'");
    let session = Pid::from_raw(session.trim().parse().unwrap()).unwrap();
    kill_process(session, Signal::STOP).unwrap();
    assert_eq!(get(sidecar.admin_address(), "/ready").await.status, 503);
    sidecar.wait_for_output("no answer within 5s; REST requests are answered with 500").await;
    let metrics = get(sidecar.admin_address(), "/metrics").await;
    assert!(metrics.body.contains("\nsidecar_rest_database_connected 0\n"));
    kill_process(session, Signal::CONT).unwrap();
    assert_eq!(get(sidecar.admin_address(), "/ready").await.status, 200);
    sidecar.wait_for_output("answers again").await;
}

#[tokio::test]
async fn the_certificates_to_trust_are_read_once_for_all_sessions() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    std::fs::write(&root, &certificate).unwrap();
    let server = PostgreSql::with(&PostgreSqlOptions {
        certificate: Some((certificate, key.serialize_pem())),
        only_tls: true,
        ..PostgreSqlOptions::default()
    });
    server.fill_as_the_reference(DATABASE);
    let section = server.section().replace("127.0.0.1", "localhost");
    let section = format!("{section}sslmode = 'verify-full'\nsslrootcert = '{}'\n", root.display());
    let sidecar = rest_alone(&section).start().await;
    std::fs::remove_file(&root).unwrap();
    server
        .psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sidecar'");
    wait_for_status(sidecar.rest_address(), "/block", 200).await;
}

#[tokio::test]
async fn a_start_without_the_database_waits_for_it_and_a_wrong_one_is_noticed_then() {
    let mut server = PostgreSql::start();
    server.stop_at_once();
    let sidecar = rest_alone(&server.section()).start().await;
    assert_eq!(get(sidecar.rest_address(), "/block").await.body, NO_DATABASE);
    server.start_again();
    // It is there, and empty.
    assert_eq!(get(sidecar.rest_address(), "/block").await.body, NO_DATABASE);
    server.fill_as_the_reference(DATABASE);
    wait_for_status(sidecar.rest_address(), "/block", 200).await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_cancelled_and_delays_no_other() {
    let server = filled();
    server.psql(DATABASE, SLOW_STEP);
    let section = format!("{}max_connections_in_pool = 1\n", server.section());
    let sidecar = rest_alone_with(&section, LIMITED).start().await;
    for _ in 0..2 {
        let begun = Instant::now();
        let answer = get(sidecar.rest_address(), "/step/1").await;
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.body.contains("longer than request_timeout_in_seconds"), "{}", answer.body);
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        // On the pool's only connection.
        assert_eq!(get(sidecar.rest_address(), "/block").await.status, 200);
    }
    // A client that leaves takes its statement with it too.
    let left = tokio::time::timeout(Duration::from_millis(100), get(sidecar.rest_address(), "/step/1")).await;
    assert!(left.is_err());
    assert_eq!(get(sidecar.rest_address(), "/block").await.status, 200);
    server.psql(DATABASE, r#"DROP VIEW "Step"; ALTER TABLE "fast" RENAME TO "Step""#);
    wait_for_status(sidecar.rest_address(), "/step/1", 200).await;
}

#[tokio::test]
async fn a_connection_that_is_dead_without_a_word_is_replaced() {
    let server = filled();
    let section = format!("{}max_connections_in_pool = 1\n", server.section());
    let sidecar = rest_alone_with(&section, LIMITED).start().await;
    let session = server.psql(DATABASE, "SELECT pid FROM pg_stat_activity WHERE application_name = 'sidecar'");
    let session = Pid::from_raw(session.trim().parse().unwrap()).unwrap();
    kill_process(session, Signal::STOP).unwrap();
    let begun = Instant::now();
    assert_eq!(get(sidecar.rest_address(), "/block").await.status, 503);
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    assert_eq!(get(sidecar.rest_address(), "/block").await.status, 200);
    kill_process(session, Signal::CONT).unwrap();
}

#[tokio::test]
async fn a_long_list_is_not_sent_before_there_is_room_for_it() {
    let server = filled();
    // 20 MB.
    server.psql(
        DATABASE,
        r#"INSERT INTO "Fault" ("era", "public_key", "raw", "event_log_id")
           SELECT 7, '01' || n, '{"t":"' || repeat('x', 200000) || '"}', 1 FROM generate_series(1, 100) n"#,
    );
    let through = Passage::to(server.port()).await;
    let own_port = format!("port = {}\n", server.port());
    let section = server.section().replace(&own_port, &format!("port = {}\n", through.port));
    let sidecar = rest_alone(&section).start().await;
    let faults = get(sidecar.rest_address(), "/faults/7").await;
    assert!(faults.status == 200 && faults.body.len() > 20_000_000, "{:.300}", faults.body);
    let sent = through.sent.load(Ordering::Relaxed);
    assert!((20_000_000..23_000_000).contains(&sent), "{sent} bytes");
}

/// Counts what a server sends on its way to clients.
struct Passage {
    port: u16,
    sent: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Passage {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, sent) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
        let mut task = JoinSet::new();
        let counted = Arc::clone(&sent);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                connections.spawn(async move {
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) =
                        TcpStream::connect(("127.0.0.1", server)).await.unwrap().into_split();
                    let asking = tokio::io::copy(&mut from_client, &mut to_server);
                    let answering = async {
                        let mut bytes = vec![0; 1 << 16];
                        while let Ok(length @ 1..) = from_server.read(&mut bytes).await {
                            counted.fetch_add(length as u64, Ordering::Relaxed);
                            if to_client.write_all(&bytes[..length]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        _ = asking => {}
                        () = answering => {}
                    }
                });
            }
        });
        Passage { port, sent, _task: task }
    }
}

#[tokio::test]
async fn many_requests_share_the_connections_of_the_pool() {
    let server = PostgreSql::start();
    let payloads = payloads();
    let (_node, from_log) = exported_to(&server, &payloads).await;
    drop(from_log);
    let section = format!("{}max_connections_in_pool = 3\n", server.section());
    let sidecar = rest_alone(&section).start().await;
    let address = sidecar.rest_address();
    let large = get(address, "/block/2000000").await;
    assert!(large.status == 200 && large.body.len() > 3_000_000);
    let requests: Vec<_> = (0..40)
        .map(|number| {
            let target = if number % 3 == 0 { "/block/2000000" } else { "/blocks?from_height=1000000" };
            tokio::spawn(async move { (target, get(address, target).await) })
        })
        .collect();
    for request in requests {
        let (target, answer) = request.await.unwrap();
        assert_eq!(answer.status, 200, "{target}: {:.300}", answer.body);
        assert!(target != "/block/2000000" || answer.body == large.body);
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sidecar'";
    let sessions: usize = server.psql(DATABASE, sessions).trim().parse().unwrap();
    assert!((1..=3).contains(&sessions), "{sessions} sessions");
}

#[tokio::test]
async fn one_sidecar_may_fill_the_database_and_answer_from_it() {
    let (node, server) = (SimulatedNode::start(), PostgreSql::start());
    let payloads = payloads();
    node.push_all(&payloads);
    let sidecar = sidecar()
        .node(node.address())
        .rest_api_with("answer_from = 'postgresql'")
        .sections(&server.section())
        .start()
        .await;
    let block = wait_for_status(sidecar.rest_address(), "/block/2000001", 200).await;
    assert!(block.body.contains(&format!("{:064x}", 2_000_001)), "{}", block.body);
    assert_eq!(get(sidecar.rest_address(), "/events").await.status, 501);
    assert!(!sidecar.storage_path().join("views").exists(), "nobody needs the views");
}

#[test]
fn a_database_without_the_tables_is_refused_with_what_to_do_and_left_alone() {
    let server = PostgreSql::start();
    let place = format!("PostgreSQL database {DATABASE} at 127.0.0.1:{}", server.port());
    let first = "let a Sidecar that reads nodes export to it first, with `[sse_server]` and `[storage.postgresql_config]`, or give another database";
    let unknown = "the tables of PLACE are of migration version 2, and this version of Sidecar knows version 1 only; use a newer Sidecar, or give another database";
    let unfinished =
        "Cannot proceed with migration, newest migration version: 1 didn't finish correctly. It is that of PLACE";
    let missing = |what: &str| format!("{place} does not hold Sidecar's tables ({what}); {first}");
    for (change, sentence) in [
        (r#"DROP SCHEMA public CASCADE; CREATE SCHEMA public"#, missing(r#"relation "Migration" does not exist"#)),
        (r#"DELETE FROM "Migration""#, missing(r#"the table "Migration" is empty"#)),
        (r#"DROP TABLE "Step""#, missing(r#"relation "Step" does not exist"#)),
        (r#"INSERT INTO "Migration" VALUES (2, true)"#, unknown.replace("PLACE", &place)),
        (r#"UPDATE "Migration" SET "is_success" = false"#, unfinished.replace("PLACE", &place)),
    ] {
        server.psql(DATABASE, "DROP SCHEMA public CASCADE; CREATE SCHEMA public");
        server.fill_as_the_reference(DATABASE);
        server.psql(DATABASE, change);
        let tables = || server.psql(DATABASE, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1");
        let before = tables();
        let mut refused = rest_alone(&server.section()).environment("RUST_BACKTRACE", "0").spawn();
        assert_eq!(refused.wait_for_exit().code(), Some(1));
        assert_eq!(refused.errors(), format!("Error: Error initializing component 'rest_api_server': {sentence}\n"));
        assert_eq!(tables(), before);
    }
    let wrong_password = server.section().replace(PASSWORD, "wr0ng-p@ssw0rd");
    let mut refused = rest_alone(&wrong_password).spawn();
    assert_eq!(refused.wait_for_exit().code(), Some(1));
    assert!(refused.errors().contains("password authentication failed for user \"sidecar\""), "{}", refused.errors());
    assert!(!refused.output().contains("wr0ng"), "{}", refused.output());
}

#[tokio::test]
async fn the_environment_alone_may_name_the_database() {
    let server = filled();
    let builder = rest_alone("")
        .environment("SIDECAR_POSTGRES_HOST", "127.0.0.1")
        .environment("SIDECAR_POSTGRES_PORT", &server.port().to_string())
        .environment("SIDECAR_POSTGRES_DATABASE_NAME", DATABASE)
        .environment("SIDECAR_POSTGRES_USERNAME", "sidecar")
        .environment("SIDECAR_POSTGRES_PASSWORD", PASSWORD)
        .environment("SIDECAR_POSTGRES_MAX_CONNECTIONS", "4294967295");
    let sidecar = builder.start().await;
    assert_eq!(get(sidecar.rest_address(), "/block/6017012").await.status, 200);
    assert!(!sidecar.output().contains(PASSWORD));
}
