//! Databases keep what they committed in the mount, and a replica of one is a database: sound, equal, and at work when opened
//! there.
//!
//! `SYNCLINE_SQLITE_TRANSACTIONS`, `SYNCLINE_PGBENCH_SCALE`, `SYNCLINE_PGBENCH_TRANSACTIONS` (of each of four clients) and
//! `SYNCLINE_POSTGRES_CRASHES` set the amounts.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::outcome::{eventually, number_from_env};
use integration::postgres::{Postgres, Server, committed};
use integration::site::{show, succeed};

/// Feeds a script to the `sqlite3` program; what it prints.
fn sqlite(database: &Path, script: &str) -> String {
    let mut command = Command::new("sqlite3");
    command.arg("-bail").arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("sqlite3 is needed (package sqlite3)");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "sqlite3 {}: {}", database.display(), show(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn sqlite_in(mode: &str) {
    let transactions = number_from_env("SYNCLINE_SQLITE_TRANSACTIONS", 1000);
    let cluster = Cluster::start(2, Options::default());
    let database = cluster.site(0).path("data.db");
    let set = sqlite(&database, &format!("PRAGMA journal_mode={mode};"));
    assert_eq!(set.trim(), mode);
    let mut script = String::from("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB); CREATE INDEX i ON t(v);\n");
    for number in 0..transactions {
        script += &format!("BEGIN; INSERT INTO t(v) VALUES(randomblob({})); ", 100 + number % 300 * 5);
        script += &format!("UPDATE t SET v=randomblob(50) WHERE id={}; COMMIT;\n", number / 2);
    }
    sqlite(&database, &script);
    // A rollback leaves the data as it was; a large one reaches the file before.
    sqlite(&database, "PRAGMA cache_size=10; BEGIN; UPDATE t SET v=randomblob(2000); ROLLBACK;");
    cluster.wait_level();
    let sum = "PRAGMA integrity_check; SELECT count(*), sum(length(v)), hex(max(v)) FROM t;";
    let here = sqlite(&database, sum);
    assert!(here.starts_with(&format!("ok\n{transactions}|")), "{here}");
    cluster.assert_converges();
    let there = sqlite(&cluster.site(1).path("data.db"), sum);
    assert_eq!(here, there);
    // The other site writes on.
    sqlite(&cluster.site(1).path("data.db"), "DELETE FROM t WHERE id % 2; VACUUM;");
    cluster.assert_converges();
    assert_eq!(sqlite(&database, sum), sqlite(&cluster.site(1).path("data.db"), sum));
}

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite_in("delete");
}

#[test]
fn sqlite_with_a_write_ahead_log() {
    sqlite_in("wal");
}

/// `pgbench` with so many clients at once.
const CLIENTS: u64 = 4;

/// A cluster that PostgreSQL's user may enter, and a database of `pgbench` at the first site.
fn with_postgres() -> (Cluster, Postgres) {
    let cluster = Cluster::start(2, Options::default());
    fs::set_permissions(cluster.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let postgres = Postgres::find(&cluster.directory().join("pg"));
    postgres.initdb(&cluster.site(0).path("data"));
    (cluster, postgres)
}

fn initialise(server: &Server) {
    let scale = number_from_env("SYNCLINE_PGBENCH_SCALE", 1).to_string();
    server.bench(&["-i", "-q", "-s", &scale]);
}

/// The committed transactions. Each moves money: the sums over accounts, tellers and branches are that over the history, or a
/// transaction was torn.
#[track_caller]
fn transactions(server: &Server) -> u64 {
    let row = server.sql(
        "SELECT count(*), coalesce(sum(delta), 0) = ALL (ARRAY[(SELECT sum(abalance) FROM pgbench_accounts), \
         (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches)]) FROM pgbench_history",
    );
    let (count, balanced) = row.split_once('|').unwrap();
    assert_eq!(balanced, "t", "a transaction is there in part: {row}");
    count.parse().unwrap()
}

/// Looks every index up against its table.
#[track_caller]
fn check_indexes(server: &Server) {
    server.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
    server.sql(
        "SELECT bt_index_parent_check(c.oid, true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relpersistence = 'p'",
    );
}

#[test]
fn postgres_works_restarts_and_goes_on_at_the_other_site() {
    let each = number_from_env("SYNCLINE_PGBENCH_TRANSACTIONS", 150);
    let work = ["-c", &CLIENTS.to_string(), "-j", "2", "-t", &each.to_string()];
    let (cluster, postgres) = with_postgres();
    let (here, there) = (cluster.site(0).path("data"), cluster.site(1).path("data"));
    let server = postgres.start(&here);
    initialise(&server);
    server.bench(&work);
    server.stop();
    let server = postgres.start(&here);
    assert_eq!(transactions(&server), CLIENTS * each);
    server.sql("VACUUM FULL");
    check_indexes(&server);
    server.stop();
    cluster.assert_converges();

    postgres.check_pages(&there);
    let server = postgres.start(&there);
    assert_eq!(transactions(&server), CLIENTS * each);
    check_indexes(&server);
    // Vacuuming first would empty the history.
    server.bench(&[&["-n"], &work[..]].concat());
    server.stop();
    cluster.assert_converges();
    postgres.check_pages(&here);
    let server = postgres.start(&here);
    assert_eq!(transactions(&server), 2 * CLIENTS * each);
    server.stop();
}

/// A copy of a tree that settles: what had arrived at a site may still be being applied.
fn settled_copy(from: &Path, to: &Path) {
    let mut quiet = 0;
    eventually(Duration::from_secs(60), "the replica settles", || {
        let mut command = Command::new("rsync");
        command.args(["-a", "--checksum", "--delete", "-i"]);
        let changes = succeed(command.arg(format!("{}/", from.display())).arg(to));
        quiet = if changes.is_empty() { quiet + 1 } else { 0 };
        // Once is not enough: what the pass had already looked at may have changed behind it.
        if quiet == 2 { Ok(()) } else { Err(changes) }
    });
}

#[test]
fn postgres_recovers_what_it_committed_when_the_daemon_is_killed() {
    let (mut cluster, postgres) = with_postgres();
    let data = cluster.site(0).path("data");
    let mut server = postgres.start(&data);
    initialise(&server);
    for round in 0..number_from_env("SYNCLINE_POSTGRES_CRASHES", 2) {
        let before = transactions(&server);
        let bench = server.start_bench(&["-n", "-c", &CLIENTS.to_string(), "-j", "2", "-T", "3600"]);
        eventually(Duration::from_secs(120), "pgbench is at work", || {
            let done = transactions(&server) - before;
            if done >= 100 { Ok(()) } else { Err(format!("{done} transactions")) }
        });
        cluster.site_mut(0).kill();
        server.abandon();
        let output = bench.wait_with_output().unwrap();
        assert!(!output.status.success(), "pgbench did not notice: {}", show(&output));
        let at_least = before + committed(&output);
        // Each client may have had one committed whose answer it did not get.
        let at_most = at_least + CLIENTS;

        // What the other site has is a state that was: PostgreSQL takes it for its own after a crash.
        let copy = cluster.directory().join(format!("copy-{round}"));
        settled_copy(&cluster.site(1).path("data"), &copy);
        let replica = postgres.start(&copy);
        let arrived = transactions(&replica);
        check_indexes(&replica);
        replica.stop();
        postgres.check_pages(&copy);
        assert!(arrived <= at_most, "{arrived} at the replica, of at most {at_most}");

        cluster.start_site(0);
        server = postgres.start(&data);
        let kept = transactions(&server);
        eprintln!(
            "round {round}: at least {at_least}, at most {at_most} committed; {kept} kept, {arrived} at the replica"
        );
        assert!((at_least..=at_most).contains(&kept), "{kept} kept, of {at_least} to {at_most} that were committed");
        check_indexes(&server);
    }
    server.stop();
    postgres.check_pages(&data);
    cluster.assert_converges();
}
