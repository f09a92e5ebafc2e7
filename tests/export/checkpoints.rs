//! Where an export resumes: with the event after the last row, after a failure in the middle of a batch, on a log that is
//! not the one it knows, and after events that the log has dropped.

use std::sync::Arc;

use sidecar_test_support::postgresql::{DATABASE, PostgreSql};

use super::world::{World, step};
use super::{Database, PATIENCE};

#[test]
fn rows_and_checkpoint_are_written_together_or_not_at_all() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    (0..10).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    // A failure that is not the row's own: an event of a kind that there is not.
    let columns = r#""event_type_id", "event_source_address", "event_id", "event_key", "api_version", "network_name""#;
    let insert = format!(r#"INSERT INTO "event_log" ({columns}) VALUES (99, '', 0, '', '', '');"#);
    rusqlite::Connection::open(&world.file)
        .unwrap()
        .execute_batch(&format!(r#"CREATE TRIGGER fail AFTER INSERT ON "Step" WHEN NEW."era" = 7 BEGIN {insert} END"#))
        .unwrap();
    server.psql(
        DATABASE,
        &format!(
            r#"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {insert} RETURN NULL; END $$;
               CREATE TRIGGER fail AFTER INSERT ON "Step" FOR EACH ROW WHEN (NEW."era" = 7) EXECUTE FUNCTION fail()"#
        ),
    );
    world.restart();
    world.wait_until(|counters| counters.next_sequence() == 7);
    let failures = world.counters().map(|(_, counters)| counters.failures.get()).max().unwrap();
    world.wait_until(|counters| counters.failures.get() > failures);
    world.stop();
    let file = world.file.clone();
    let databases = [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)];
    for database in databases {
        assert_eq!(database.rows(), world.model.rows()[..7]);
        assert_eq!(database.checkpoint(), Some(7));
    }
    rusqlite::Connection::open(&file).unwrap().execute_batch("DROP TRIGGER fail").unwrap();
    server.psql(DATABASE, r#"DROP TRIGGER fail ON "Step""#);
    world.restart();
    world.wait_for_exporters();
    world.stop();
    databases.into_iter().for_each(|database| database.assert_equals(&world.model));
}

#[test]
fn on_another_log_than_the_one_it_knows_an_export_begins_where_it_once_began() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    (0..10).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    world.restart();
    world.wait_for_exporters();
    world.stop();
    let file = world.file.clone();
    // A log that lost its end; and one that is an older copy, so that its head is behind the checkpoint.
    for (time, differs) in (1..).zip([r#""epoch" = "epoch" + 1"#, r#""next_sequence" = 1000"#]) {
        let lose = r#"DELETE FROM "Step" WHERE "era" = 5; DELETE FROM "event_log" WHERE "event_key" = '5'"#;
        world.change(&server, &format!(r#"UPDATE "sidecar_checkpoint" SET "first_sequence" = 2, {differs}; {lose}"#));
        world.restart();
        world.wait_until(|counters| counters.collisions.get() == 7 * time);
        world.stop();
        for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
            let (mut rows, mut expected) = (database.rows(), world.model.rows().to_vec());
            rows.sort_unstable();
            expected.sort_unstable();
            assert_eq!(rows, expected);
            assert_eq!(database.checkpoint(), Some(10));
        }
    }
}

#[test]
fn what_was_exported_and_dropped_is_not_missing_when_the_log_begins_another_epoch() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    (0..5).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    world.writer.seal_now(1).unwrap();
    (5..10).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    world.restart();
    world.wait_for_exporters();
    world.stop();
    world.change(&server, r#"UPDATE "sidecar_checkpoint" SET "epoch" = "epoch" + 1"#);
    assert_ne!(world.writer.maintenance().drop_before(5).unwrap(), 0);
    world.restart();
    world.wait_until(|counters| counters.collisions.get() == 5);
    world.stop();
    assert!(world.counters().all(|(_, counters)| counters.missing.get() == 0));
}

#[test]
fn of_two_that_export_one_log_in_two_epochs_the_first_stops_and_the_second_continues() {
    let server = PostgreSql::start();
    let (folder, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut original = World::new(folder.path(), Some((&server, DATABASE)));
    (0..10).for_each(|era| original.tell(&step(era), 1, era, 0));
    original.commit();
    original.restart();
    original.wait_for_exporters();
    let copy = std::process::Command::new("cp").arg("-r").arg(folder.path().join("log")).arg(copied.path()).status();
    assert!(copy.unwrap().success());

    let mut copy = World::new(copied.path(), Some((&server, DATABASE)));
    copy.restart();
    copy.wait_for_exporters();
    let postgresql = |world: &World| Arc::clone(world.counters().find(|(name, _)| *name == "postgresql").unwrap().1);
    for era in 10..13 {
        let failures = postgresql(&original).failures.get();
        for world in [&mut original, &mut copy] {
            world.tell(&step(era), 1, era, 0);
            world.commit();
        }
        copy.wait_for_exporters();
        let deadline = std::time::Instant::now() + PATIENCE;
        while postgresql(&original).failures.get() == failures {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    [&mut original, &mut copy].into_iter().for_each(World::stop);
    assert_eq!(postgresql(&original).next_sequence(), 10);
    assert_eq!(postgresql(&copy).collisions.get(), 10, "it has compared what was there once");
    assert_eq!(postgresql(&copy).failures.get(), 0);
}

#[test]
fn events_that_were_dropped_before_they_were_exported_are_counted_and_passed() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    (0..5).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    world.restart();
    world.wait_for_exporters();
    world.stop();
    (5..20).for_each(|era| drop(world.append(&step(era), 1, era, 0)));
    world.commit();
    world.writer.seal_now(1).unwrap();
    (20..25).for_each(|era| world.tell(&step(era), 1, era, 0));
    world.commit();
    assert_ne!(world.writer.maintenance().drop_before(20).unwrap(), 0);
    // The blocks that are still in memory go with the process.
    let model = std::mem::take(&mut world.model);
    drop(world);
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    world.model = model;
    world.restart();
    world.wait_for_exporters();
    world.stop();
    let missing: Vec<_> = world.counters().map(|(_, counters)| counters.missing.get()).collect();
    assert_eq!(missing, [15, 15]);
    for database in [Database::Sqlite(&world.file), Database::PostgreSql(&server, DATABASE)] {
        database.assert_equals(&world.model);
    }
}
