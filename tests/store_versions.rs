//! Promise: a store that an earlier belljar made is brought to this version, and
//! nothing that is in it is lost.

mod harness;

use belljar::config::Dirs;
use harness::Jar;

fn dirs(jar: &Jar) -> Dirs {
    let at = |below: &str| jar.path("belljar").join(below);
    Dirs { config: at("config"), data: at("data"), run: at("run") }
}

#[test]
fn a_file_of_the_version_before_is_brought_to_this_one_and_keeps_what_is_in_it() {
    let jar = Jar::new();
    let store = belljar::store::Store::open(&dirs(&jar)).expect("open");
    drop(store);
    let file = jar.path("belljar/data/belljar.db");
    let database = rusqlite::Connection::open(&file).expect("open");
    let version = |database: &rusqlite::Connection| -> i64 {
        database.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version")
    };
    let newest = version(&database);
    // As version 1 left it: without the host process's tables.
    for table in ["chat", "binding", "message", "outgoing", "session", "task", "task_run", "handled", "decision"] {
        database.execute_batch(&format!("DROP TABLE {table}")).expect(table);
    }
    database
        .execute_batch(
            "INSERT INTO take (grp, rule, boot, since_boot, wall, per) VALUES ('main', 'kept', 'x', 1, 2, 3)",
        )
        .expect("insert");
    database.pragma_update(None, "user_version", 1).expect("update");
    drop(database);
    jar.call(&["task", "add", "--every", "1h", "x"]).success();
    let database = rusqlite::Connection::open(&file).expect("open");
    let kept: String = database.query_row("SELECT rule FROM take", [], |row| row.get(0)).expect("the row");
    assert_eq!((version(&database), kept.as_str()), (newest, "kept"));
    let strict: i64 = database
        .query_row(
            "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND strict = 0 AND name NOT LIKE 'sqlite%'",
            [],
            |row| row.get(0),
        )
        .expect("a count");
    assert_eq!(strict, 0, "every table is strict");
}
