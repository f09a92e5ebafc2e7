//! Tables with constraints and triggers of an operator's own: what they refuse is left out, and nothing else.

use sidecar_test_support::postgresql::{DATABASE, PostgreSql};

use super::Database;
use super::world::{World, step};

/// A world that sends steps of the eras 0 to 99 before its exporters run, of which the tables will refuse 17 and 58.
fn world_of_steps(folder: &std::path::Path, postgresql: Option<(&PostgreSql, &str)>) -> World {
    let mut world = World::new(folder, postgresql);
    for era in 0..100 {
        match era {
            17 | 58 => drop(world.append(&step(era), 1, era, 0)),
            _ => world.tell(&step(era), 1, era, 0),
        }
    }
    world.commit();
    world
}

fn assert_exported(world: &mut World, database: Database<'_>, name: &str, refused: u64, collisions: u64) {
    world.restart();
    world.wait_for_exporters();
    world.stop();
    database.assert_equals(&world.model);
    let (_, counters) = world.counters().find(|(found, _)| *found == name).unwrap();
    assert_eq!((counters.refused.get(), counters.collisions.get(), counters.rows.get()), (refused, collisions, 98));
}

#[test]
fn what_a_check_a_trigger_or_an_index_of_somebody_else_refuses_in_postgresql_is_left_out() {
    let server = PostgreSql::start();
    let raise = |code: &str| {
        format!(
            r#"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW."era" IN (17, 58) THEN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$;
               CREATE TRIGGER refuse BEFORE INSERT ON "Step" FOR EACH ROW EXECUTE FUNCTION refuse()"#
        )
    };
    let refusals = [
        (r#"ALTER TABLE "Step" ADD CHECK ("era" NOT IN (17, 58))"#.to_owned(), 2, 0),
        (raise("P0001"), 2, 0),
        (raise("23502"), 2, 0),
        // 16 and 17, 57 and 58 are one.
        (
            r#"CREATE UNIQUE INDEX ON "Step" ((CASE WHEN "era" IN (17, 58) THEN "era" - 1 ELSE "era" END))"#.to_owned(),
            0,
            2,
        ),
    ];
    for (number, (refusal, refused, collisions)) in refusals.into_iter().enumerate() {
        let database = format!("refusing_{number}");
        server.psql("postgres", &format!("CREATE DATABASE {database}"));
        let folder = tempfile::tempdir().unwrap();
        let mut world = world_of_steps(folder.path(), Some((&server, &database)));
        server.psql(&database, &refusal);
        let database = Database::PostgreSql(&server, &database);
        assert_exported(&mut world, database, "postgresql", refused, collisions);
    }
}

#[test]
fn what_a_trigger_or_an_index_of_somebody_else_refuses_in_sqlite_is_left_out() {
    let refusals = [
        (
            r#"CREATE TRIGGER refuse BEFORE INSERT ON "Step" WHEN NEW."era" IN (17, 58)
               BEGIN SELECT RAISE(ABORT, 'no'); END"#,
            2,
            0,
        ),
        (r#"CREATE UNIQUE INDEX mine ON "Step" (CASE WHEN "era" IN (17, 58) THEN "era" - 1 ELSE "era" END)"#, 0, 2),
    ];
    for (refusal, refused, collisions) in refusals {
        let folder = tempfile::tempdir().unwrap();
        let mut world = world_of_steps(folder.path(), None);
        let file = world.file.clone();
        rusqlite::Connection::open(&file).unwrap().execute_batch(refusal).unwrap();
        assert_exported(&mut world, Database::Sqlite(&file), "sqlite", refused, collisions);
    }
}

#[test]
fn a_batch_that_is_too_much_for_the_database_is_written_in_parts() {
    for code in ["53200", "57014"] {
        let server = PostgreSql::start();
        let folder = tempfile::tempdir().unwrap();
        let mut world = World::new(folder.path(), Some((&server, DATABASE)));
        (0..100).for_each(|era| world.tell(&step(era), 1, era, 0));
        world.commit();
        server.psql(
            DATABASE,
            &format!(
                r#"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   IF (SELECT count(*) FROM new) > 30 THEN RAISE EXCEPTION 'too much' USING ERRCODE = '{code}'; END IF;
                   RETURN NULL; END $$;
                   CREATE TRIGGER refuse AFTER INSERT ON "event_log" REFERENCING NEW TABLE AS new
                   FOR EACH STATEMENT EXECUTE FUNCTION refuse()"#
            ),
        );
        world.restart();
        world.wait_for_exporters();
        world.stop();
        Database::PostgreSql(&server, DATABASE).assert_equals(&world.model);
    }
}

#[test]
fn an_event_whose_kind_is_not_in_its_table_now_waits_until_it_is() {
    let server = PostgreSql::start();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Some((&server, DATABASE)));
    let file = world.file.clone();
    world.tell(&step(1), 1, 0, 0);
    world.commit();
    world.change(&server, r#"DELETE FROM "event_type" WHERE "event_type_id" = 7"#);
    world.restart();
    world.wait_until(|counters| counters.failures.get() > 0);
    world.change(&server, r#"INSERT INTO "event_type" VALUES (7, 'Step')"#);
    world.wait_for_exporters();
    world.stop();
    for database in [Database::Sqlite(&file), Database::PostgreSql(&server, DATABASE)] {
        database.assert_equals(&world.model);
    }
}
