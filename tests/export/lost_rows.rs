//! Databases that lose what was exported to them: files that people move away, tables that they empty, drop and rename.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use sidecar_test_support::node::SimulatedNode;
use sidecar_test_support::postgresql::{DATABASE, PostgreSql};

use super::world::{World, step};
use super::{Database, PATIENCE, SQLITE, model_of, payloads, sidecar, sqlite_file, told};

fn fault(era: u64) -> String {
    format!(r#"{{"Fault":{{"era_id":{era},"public_key":"01"}}}}"#)
}

fn wait_for_checkpoint(file: &Path, wanted: u64) {
    let deadline = Instant::now() + PATIENCE;
    while Database::Sqlite(file).checkpoint() != Some(wanted) {
        assert!(Instant::now() < deadline, "{:?} is not {wanted}", Database::Sqlite(file).checkpoint());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_sqlite_file_that_is_moved_away_is_whole_and_the_next_one_is_filled_from_the_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), None);
    let (file, archive) = (world.file.clone(), folder.path().join("archive.db3"));
    (0..10).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    world.restart();
    world.wait_for_exporters();
    fs::rename(&file, &archive).unwrap();
    (10..20).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    wait_for_checkpoint(&file, 20);
    assert_eq!(Database::Sqlite(&archive).rows(), world.model.rows()[..10]);
    Database::Sqlite(&file).assert_equals(&world.model);

    // Nothing is written meanwhile.
    fs::remove_file(&file).unwrap();
    wait_for_checkpoint(&file, 20);
    Database::Sqlite(&file).assert_equals(&world.model);

    // An older one comes back in its place.
    fs::rename(&archive, &file).unwrap();
    wait_for_checkpoint(&file, 20);
    Database::Sqlite(&file).assert_equals(&world.model);
    world.stop();
}

#[test]
fn a_file_at_rest_is_whole_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), None);
    (0..10).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    world.restart();
    world.wait_for_exporters();
    // As it is taken to another file system: without what SQLite keeps beside it.
    let (copy, deadline) = (folder.path().join("copy.db3"), Instant::now() + PATIENCE);
    while {
        fs::copy(&world.file, &copy).unwrap();
        Database::Sqlite(&copy).checkpoint() != Some(10)
    } {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(100));
    }
    Database::Sqlite(&copy).assert_equals(&world.model);
    world.stop();
}

#[tokio::test]
async fn a_moved_file_is_reported_and_an_export_from_the_head_continues_where_it_ended() {
    let node = SimulatedNode::start();
    let payloads = payloads();
    let (before, after) = payloads.split_at(100);
    node.push_all(before);
    let sections = format!("{SQLITE}export_from = 'head'\n");
    let mut sidecar = sidecar().node(node.address()).sections(&sections).start().await;
    let file = sqlite_file(&sidecar);
    Database::Sqlite(&file).wait_for_checkpoint(100).await;
    let archive = file.with_file_name("archive.db3");
    fs::rename(&file, &archive).unwrap();
    node.push_all(after);
    Database::Sqlite(&file).wait_for_checkpoint(payloads.len() as u64).await;
    assert!(sidecar.terminate().success());
    let model = model_of(&told(&node, &payloads));
    let (archived, new) = (Database::Sqlite(&archive).rows(), Database::Sqlite(&file).rows());
    assert!(!new.is_empty() && archived.len() + new.len() >= model.rows().len());
    let rows: std::collections::HashSet<_> = archived.iter().chain(&new).collect();
    assert!(model.rows().iter().all(|row| rows.contains(row)), "no event is in neither file");
    let moved = format!("SQLite database {} was moved, replaced or removed", file.display());
    assert!(sidecar.output().contains(&moved), "{}", sidecar.output());
}

#[test]
fn a_folder_that_is_moved_away_is_not_made_again_and_may_come_back() {
    let around = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (around.path().join("storage"), around.path().join("elsewhere"));
    let mut world = World::new(&folder, None);
    let file = world.file.clone();
    world.tell(&step(0), 1, 0, 0);
    world.commit();
    world.restart();
    world.wait_for_exporters();
    fs::rename(&folder, &elsewhere).unwrap();
    world.wait_until(|counters| counters.failures.get() >= 2);
    assert!(!folder.exists());
    fs::rename(&elsewhere, &folder).unwrap();
    world.tell(&step(1), 1, 1, 0);
    world.commit();
    world.wait_for_exporters();
    world.stop();
    Database::Sqlite(&file).assert_equals(&world.model);
}

#[test]
fn tables_that_are_emptied_or_dropped_while_they_are_written_are_filled_again() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    let file = world.file.clone();
    (0..10).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    world.restart();
    world.wait_for_exporters();
    let tables = [
        "transaction_event",
        "BlockAdded",
        "TransactionAccepted",
        "TransactionProcessed",
        "TransactionExpired",
        "Fault",
        "FinalitySignature",
        "Step",
        "Shutdown",
        "event_log",
    ];
    let drop_all: String = tables.map(|table| format!("DROP TABLE \"{table}\";")).concat();
    let mut rows = 10;
    for (era, loss) in (10..).zip([r#"DELETE FROM "Step"; DELETE FROM "event_log""#, &drop_all]) {
        world.change(&server, loss);
        world.tell(&step(era), 1, era, 0);
        world.commit();
        rows += era + 1;
        world.wait_until(|counters| counters.rows.get() == rows);
        for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
            database.assert_equals(&world.model);
        }
    }
    // Also when it happens while nothing runs.
    world.stop();
    world.change(&server, r#"DELETE FROM "Step"; DELETE FROM "event_log""#);
    world.restart();
    world.wait_until(|counters| counters.rows.get() == rows + 12);
    world.stop();
    for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
        database.assert_equals(&world.model);
    }
}

#[test]
fn a_table_that_was_emptied_alone_gets_new_rows_and_no_old_ones() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    let file = world.file.clone();
    (0..5).for_each(|era| world.tell(&step(era), 1, era, 0));
    (0..5).for_each(|era| world.tell(&fault(era), 1, 10 + era, 0));
    world.commit();
    world.restart();
    world.wait_for_exporters();
    world.change(&server, r#"DELETE FROM "Fault""#);
    world.tell(&step(5), 1, 20, 0);
    world.commit();
    world.wait_for_exporters();
    // All are compared again, and no fault gets a row.
    world.stop();
    world.change(&server, r#"UPDATE "sidecar_checkpoint" SET "epoch" = "epoch" + 1"#);
    world.restart();
    world.wait_until(|counters| counters.collisions.get() == 11);
    world.tell(&step(6), 1, 21, 0);
    world.commit();
    world.wait_until(|counters| counters.next_sequence() == 12);
    world.tell(&fault(5), 1, 22, 0);
    world.commit();
    world.wait_for_exporters();
    world.stop();
    for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
        let era = |table: &str| database.query(&format!(r#"SELECT CAST("era" AS TEXT) FROM "{table}" ORDER BY "era""#));
        assert_eq!((era("Step").len(), era("Fault")), (7, vec![vec!["5".to_owned()]]));
    }
    assert!(world.counters().all(|(_, counters)| counters.failures.get() == 1), "it is reported once");
}

#[test]
fn a_renamed_table_holds_the_export_up_until_it_has_its_name_again() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    let file = world.file.clone();
    world.tell(&step(0), 1, 0, 0);
    world.commit();
    world.restart();
    world.wait_for_exporters();
    world.change(&server, r#"ALTER TABLE "event_log" RENAME TO "event_log_2026""#);
    world.tell(&step(1), 1, 1, 0);
    world.commit();
    // The second attempt looks for the tables first.
    world.wait_until(|counters| counters.failures.get() >= 2);
    world.change(&server, r#"ALTER TABLE "event_log_2026" RENAME TO "event_log""#);
    world.wait_for_exporters();
    world.stop();
    for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
        database.assert_equals(&world.model);
    }
}
