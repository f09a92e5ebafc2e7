//! The exporters against the model, over any interleaving of events, commits and restarts.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sidecar_test_support::postgresql::{DATABASE, PostgreSql};

use super::Database;
use super::world::World;

const CASES: u32 = 16;

#[derive(Clone, Debug)]
enum Step {
    /// An event of one of few keys, so that many share them.
    Tell {
        kind: u8,
        first: u64,
        second: u64,
        form: bool,
        source: u16,
        id: u64,
    },
    Commit,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let tell = (0..10_u8, 0..4_u64, 0..3_u64, any::<bool>(), 0..2_u16, 0..5_u64);
    prop_oneof![
        12 => tell.prop_map(|(kind, first, second, form, source, id)| Step::Tell { kind, first, second, form, source, id }),
        2 => Just(Step::Commit),
        1 => Just(Step::Restart),
    ]
}

fn payload(kind: u8, first: u64, second: u64, form: bool) -> String {
    let transaction = if form { "Version1" } else { "Deploy" };
    match kind {
        0 => format!(
            r#"{{"BlockAdded":{{"block_hash":"b{second}","block":{{"Version2":{{"header":{{"height":{first}}}}}}}}}}}"#
        ),
        1 => format!(r#"{{"TransactionAccepted":{{"{transaction}":{{"hash":"t{first}","and":"\\\n"}}}}}}"#)
            .replace('\n', "n"),
        2 => format!(r#"{{"TransactionExpired":{{"transaction_hash":{{"{transaction}":"t{first}"}}}}}}"#),
        3 => format!(r#"{{"TransactionProcessed":{{"transaction_hash":{{"{transaction}":"t{first}"}},"ttl":"€"}}}}"#),
        4 => format!(r#"{{"Fault":{{"era_id":{first},"public_key":"k{second}"}}}}"#),
        5 if form => format!(
            r#"{{"FinalitySignature":{{"V1":{{"block_hash":"b{first}","era_id":0,"public_key":"k{second}"}}}}}}"#
        ),
        5 => format!(
            r#"{{"FinalitySignature":{{"V2":{{"block_hash":"b{first}","block_height":0,"public_key":"k{second}"}}}}}}"#
        ),
        6 => format!("{{\"Step\": {{\"era_id\": {first},\n \"execution_effects\": []}}}}"),
        7 => r#""Shutdown""#.to_owned(),
        8 => format!(r#"{{"Step":{{"era_id":"{first}"}}}}"#),
        _ => format!(r#"{{"New":{first}}}"#),
    }
}

#[test]
fn rows_in_both_databases_equal_the_models_after_any_interleaving_of_events_commits_and_restarts() {
    let server = PostgreSql::start();
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let case = std::cell::Cell::new(0);
    let result = runner.run(&prop::collection::vec(step(), 1..120), |steps| {
        case.set(case.get() + 1);
        let database = format!("case_{}", case.get());
        server.psql("postgres", &format!("CREATE DATABASE {database}"));
        let folder = tempfile::tempdir().unwrap();
        let mut world = World::new(folder.path(), Some((&server, &database)));
        world.restart();
        for step in &steps {
            match *step {
                Step::Tell { kind, first, second, form, source, id } => {
                    world.tell(&payload(kind, first, second, form), source, id, second);
                }
                Step::Commit => world.commit(),
                Step::Restart => world.restart(),
            }
        }
        world.commit();
        world.wait_for_exporters();
        world.stop();
        for database in [Database::Sqlite(&world.file), Database::PostgreSql(&server, &database)] {
            let rows = database.rows();
            if rows != world.model.rows() {
                return Err(TestCaseError::fail(format!("{rows:#?}\nis not\n{:#?}", world.model.rows())));
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn an_event_that_is_not_written_takes_no_key_from_one_after_it() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    let block = |height, hash| payload(0, height, hash, false);
    world.tell(&block(1, 0), 1, 0, 0);
    world.commit();
    world.restart();
    world.wait_for_exporters();
    world.stop();
    // Of a height that is taken; then a block with all of its keys in `event_log`, and one more.
    world.tell(&block(1, 1), 1, 9, 0);
    world.tell(&block(2, 1), 1, 9, 0);
    world.tell(&block(3, 1), 1, 9, 0);
    world.tell(&block(3, 2), 1, 9, 0);
    world.commit();
    world.restart();
    world.wait_for_exporters();
    world.stop();
    assert_eq!((world.model.rows().len(), world.model.collisions), (3, 2));
    for database in [Database::Sqlite(&world.file), Database::PostgreSql(&server, DATABASE)] {
        database.assert_equals(&world.model);
    }
}
