//! Mapped files: what programs store is at the peer, what peers write is seen, and nobody dies where ext4 would let him live.
//!
//! An inode is passed through or cached, by its first open ([`fs`'s open modes](../../fs/src/fuse/open_mode.rs)): so each case runs with a file that
//! is first opened for both, and with one that another program reads. The mapping program is a process of its own, which may die.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::mapper::Mapper;
use integration::outcome::eventually;
use integration::seed::Seed;
use integration::sync_state;

const SEEN: Duration = Duration::from_secs(60);
/// Of a file whose content does not matter much: some pages and a part.
const LEN: u64 = 3 * 4096 + 100;
const SIGBUS: &str = "died 7";
const SEED: &str = "SYNCLINE_SEED";

fn mapper(directory: &Path) -> Mapper {
    Mapper::start(Path::new(env!("CARGO_BIN_EXE_mapper")), directory)
}

/// A file of `len` times `a`, known at every site.
fn make(cluster: &Cluster, name: &str, len: u64) {
    fs::write(cluster.site(0).path(name), vec![b'a'; len as usize]).unwrap();
    cluster.wait_level();
}

/// Whether another program has the file open for reading before the one that maps it: its mappings then go to the object.
const MODES: [(&str, bool); 2] = [("cached", false), ("passed-through", true)];

/// Keeps the file open for reading, first of all, if `passed_through`.
fn hold(directory: &Path, name: &str, passed_through: bool) -> Option<Mapper> {
    passed_through.then(|| {
        let mut reader = mapper(directory);
        reader.run(&format!("open f r {name}"));
        reader.run("read f 0 1");
        reader
    })
}

fn await_bytes(path: &Path, offset: u64, expected: &[u8], what: &str) {
    eventually(SEEN, what, || {
        let mut bytes = vec![0; expected.len()];
        File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset)).map_err(|e| e.to_string())?;
        if bytes == expected { Ok(()) } else { Err(format!("{:.60}", bytes.escape_ascii())) }
    });
}

#[test]
fn what_a_mapping_stores_is_at_the_peer_whoever_opened_first_and_however_it_ends() {
    let cluster = Cluster::start(2, Options::default());
    let here = &cluster.site(0).mountpoint;
    let mut kept = Vec::new();
    let mut files = Vec::new();
    for order in ["alone", "r", "w", "r-after"] {
        for end in ["fsync", "close", "unmap", "forget", "kill"] {
            let name = format!("{order}-{end}");
            fs::write(cluster.site(0).path(&name), vec![b'a'; LEN as usize]).unwrap();
            files.push((name, order, end));
        }
    }
    cluster.wait_level();
    for (name, order, end) in &files {
        let mut other = mapper(here);
        if matches!(*order, "r" | "w") {
            other.run(&format!("open f {order} {name}"));
        }
        let mut program = mapper(here);
        program.run(&format!("open f r+w {name}"));
        if *order == "r-after" {
            other.run(&format!("open f r {name}"));
        }
        program.run(&format!("map m f shared {LEN}"));
        program.run("store m 5000 98 10");
        if order.starts_with('r') {
            assert_eq!(other.run("read f 4999 12"), "1xa,10xb,1xa", "{name}: another program sees it at once");
        }
        match *end {
            "fsync" => drop(program.run("fsync f")),
            "close" => {
                program.run("close f");
            }
            "unmap" => {
                program.run("unmap m");
                program.run("close f");
            }
            // The usual way: the descriptor is not needed any more.
            "forget" => {
                program.run("close f");
                program.run("store m 5000 99 10");
                program.run("store m 9000 99 1");
                if order.starts_with('r') {
                    assert_eq!(other.run("read f 4999 12"), "1xa,10xc,1xa", "{name}: after close, too");
                }
                program.run("unmap m");
            }
            _ => {}
        }
        if *end == "kill" {
            program.kill()
        } else {
            kept.push(program)
        }
        kept.push(other);
    }
    cluster.site(0).wait(SEEN);
    for (name, _, end) in &files {
        let byte = if *end == "forget" { b'c' } else { b'b' };
        let path = cluster.site(1).path(name);
        if matches!(*end, "fsync" | "close" | "unmap") {
            assert_eq!(fs::read(&path).unwrap()[4999..5011], *b"abbbbbbbbbba", "{name}: when {end} has returned");
        }
        await_bytes(&path, 5000, &[byte; 10], name);
    }
    drop(kept);
    cluster.assert_converges();
}

/// A descriptor that is closed, a mapping that goes on: for as long as there is one, in whatever way the file is opened meanwhile.
#[test]
fn a_mapping_goes_on_without_its_descriptor() {
    let cluster = Cluster::start(2, Options::default());
    for (mode, passed_through) in MODES {
        make(&cluster, mode, LEN);
        let (here, there) = (&cluster.site(0).mountpoint, cluster.site(1).path(mode));
        let reader = hold(here, mode, passed_through);
        let mut program = mapper(here);
        program.run(&format!("open f r+w {mode}"));
        program.run(&format!("map m f shared {LEN}"));
        program.run("close f");
        drop(reader);
        program.run("store m 10 98 2");
        // By nobody's request where it is passed through; the system's write-back takes longer.
        if passed_through {
            await_bytes(&there, 9, b"abba", mode);
        }
        let mut other = mapper(here);
        other.run(&format!("open f r+w {mode}"));
        assert_eq!(other.run("read f 9 4"), "1xa,2xb,1xa");
        other.run("write f 100 99 2");
        assert_eq!(program.run("load m 99 4"), "1xa,2xc,1xa", "{mode}: one program's write is in the other's mapping");
        program.run("store m 200 100 2");
        assert_eq!(other.run("read f 199 4"), "1xa,2xd,1xa", "{mode}: and the other way round");
        other.run("fsync f");
        cluster.site(0).wait(SEEN);
        assert_eq!(fs::read(&there).unwrap()[199..203], *b"adda", "{mode}");
        other.run("close f");
        program.run("store m 300 101 2");
        program.run("unmap m");
        await_bytes(&there, 299, b"aeea", mode);
    }
    cluster.assert_converges();
}

/// Runs the lines; the answers, and the content that the file has in the end. Lines for the other program begin with `>`.
fn transcript(directory: &Path, passed_through: bool, lines: &str) -> (Vec<String>, Vec<u8>) {
    fs::write(directory.join("f"), vec![b'a'; LEN as usize]).unwrap();
    let reader = hold(directory, "f", passed_through);
    let (mut one, mut other) = (mapper(directory), mapper(directory));
    let mut answers = vec![one.ask("open f r+w f")];
    answers.push(other.ask("open f r+w f"));
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let answer = line.strip_prefix("> ").map_or_else(|| one.ask(line), |line| other.ask(line));
        answers.push(format!("{line}: {answer}"));
    }
    drop((one, other, reader));
    (answers, fs::read(directory.join("f")).unwrap())
}

#[test]
fn programs_at_one_site_see_what_they_see_on_ext4() {
    let cluster = Cluster::start(2, Options::default());
    let plain = cluster.directory().join("plain");
    fs::create_dir(&plain).unwrap();
    let mut contents = Vec::new();
    for (what, lines) in [
        (
            "writes and stores",
            "
            map m f shared 16384
            store m 0 98 100
            > read f 0 101
            > write f 50 99 100
            load m 49 103
            > map n f shared 16384
            > store n 4090 100 20
            load m 4089 22
            read f 4089 22
            msync m
            fsync f",
        ),
        (
            "stores up to the end of the last page go nowhere",
            "
            map m f shared 16384
            store m 12388 98 50
            msync m
            size f
            > read f 12380 100",
        ),
        (
            "truncation under a mapping",
            "
            map m f shared 12288
            store m 0 98 10
            > truncate f 5000
            size f
            load m 4995 5
            store m 4998 99 1
            msync m
            > read f 4990 100
            load m 8192 1",
        ),
        (
            "a longer file again is zeros there",
            "
            map m f shared 12288
            store m 6000 98 10
            > truncate f 5000
            > truncate f 12000
            size f
            load m 4999 2000
            store m 6000 99 1
            fsync f",
        ),
        (
            "beyond the end",
            "
            map m f shared 40960
            load m 12287 4
            load m 20000 1",
        ),
        (
            "a hole",
            "
            truncate f 1000000
            map m f shared 1000000
            load m 500000 5000
            store m 700000 98 3
            > read f 699999 5
            fsync f",
        ),
        (
            "a file that another handle makes longer",
            "
            map m f shared 40960
            > write f 30000 98 1000
            size f
            load m 29999 1001
            store m 30500 99 1
            > read f 30499 3
            close f
            store m 30510 100 1
            unmap m",
        ),
        (
            "a private mapping is its program's own",
            "
            map m f private 12288
            store m 0 98 10
            > read f 0 11
            load m 0 11
            read f 0 11
            > write f 8192 99 10
            fsync f
            close f
            > read f 0 11",
        ),
        (
            "reading only",
            "
            map m f shared-read 12288
            > write f 5 98 10
            load m 0 20
            close f
            > write f 15 98 10
            load m 0 30",
        ),
    ] {
        let expected = transcript(&plain, false, lines);
        for (mode, passed_through) in MODES {
            let name = format!("{what} {mode}");
            let directory = cluster.site(0).path(&name);
            fs::create_dir(&directory).unwrap();
            let (answers, content) = transcript(&directory, passed_through, lines);
            assert_eq!(answers, expected.0, "{what}, {mode}");
            assert!(content == expected.1, "{what}, {mode}: other content than on ext4");
            contents.push((Path::new(&name).join("f"), content));
        }
    }
    // Nothing is left behind that a mapping stored last, a moment after its end.
    for (name, content) in contents {
        await_bytes(&cluster.site(1).path(&name), 0, &content, &name.display().to_string());
    }
    cluster.assert_converges();
}

/// A file is mapped at site 1 while site 0 changes it in each way.
#[test]
fn what_a_peer_changes_is_seen_in_a_mapping_and_kills_nobody() {
    let cluster = Cluster::start(2, Options::default());
    let there = &cluster.site(1).mountpoint;
    for kind in ["r shared-read", "r+w shared", "r+w shared passed-through", "r private"] {
        for change in ["overwrite", "append", "truncate", "empty", "rename over", "unlink"] {
            let name = format!("{change} {kind}").replace(' ', "_");
            make(&cluster, &name, LEN);
            let words: Vec<&str> = kind.split(' ').collect();
            let reader = hold(there, &name, words.len() > 2);
            let mut program = mapper(there);
            program.run(&format!("open f {} {name}", words[0]));
            program.run(&format!("map m f {} 40960", words[1]));
            assert_eq!(program.run(&format!("load m 0 {LEN}")), format!("{LEN}xa"));
            let path = cluster.site(0).path(&name);
            let open = || OpenOptions::new().write(true).open(&path).unwrap();
            match change {
                "overwrite" => open().write_all_at(&[b'b'; 5000], 4000).unwrap(),
                "append" => open().write_all_at(&[b'b'; 20_000], LEN).unwrap(),
                "truncate" => open().set_len(5000).unwrap(),
                "empty" => drop(File::create(&path).unwrap()),
                "rename over" => {
                    fs::write(cluster.site(0).path("new"), "new").unwrap();
                    fs::rename(cluster.site(0).path("new"), &path).unwrap();
                }
                _ => fs::remove_file(&path).unwrap(),
            }
            cluster.site(0).wait(SEEN);
            let size = program.run("size f");
            let ask = |program: &mut Mapper, command: &str, expected: &str| {
                assert_eq!(program.ask(command), expected, "{name}: {command}");
            };
            match change {
                "overwrite" => ask(&mut program, "load m 3999 5002", "ok 1xa,5000xb,1xa"),
                "append" => {
                    assert_eq!(size, (LEN + 20_000).to_string(), "{name}");
                    ask(&mut program, &format!("load m {} 20001", LEN - 1), "ok 1xa,20000xb");
                }
                "truncate" => {
                    assert_eq!(size, "5000", "{name}");
                    ask(&mut program, "load m 4999 2", "ok 1xa,1x#0");
                    ask(&mut program, "load m 8192 1", SIGBUS);
                }
                "empty" => {
                    assert_eq!(size, "0", "{name}");
                    ask(&mut program, "load m 0 1", SIGBUS);
                }
                _ => ask(&mut program, &format!("load m 0 {LEN}"), &format!("ok {LEN}xa")),
            }
            drop((program, reader));
        }
    }
    cluster.assert_converges();
}

/// Who has a file open for both and stores nothing makes no change: else a site would take a peer's bytes for its own, and win with them over what
/// the peer wrote since.
#[test]
fn what_a_peer_wrote_is_not_written_again_by_who_has_it_mapped() {
    let cluster = Cluster::start(2, Options::default());
    let version =
        |site: usize, name: &str| sync_state::try_attribute(&cluster.site(site).path(name), "version").unwrap();
    for (mode, passed_through) in MODES {
        make(&cluster, mode, 300_000);
        let there = &cluster.site(1).mountpoint;
        let reader = hold(there, mode, passed_through);
        let mut program = mapper(there);
        program.run(&format!("open f r+w {mode}"));
        program.run("map m f shared 500000");
        program.run("load m 0 1");
        let file = OpenOptions::new().write(true).open(cluster.site(0).path(mode)).unwrap();
        file.write_all_at(b"overwritten", 70_000).unwrap();
        file.write_all_at(&[b'x'; 100_000], 300_000).unwrap();
        file.set_len(350_000).unwrap();
        file.write_all_at(b"farther", 450_000).unwrap();
        file.write_all_at(b"inside", 65_530).unwrap();
        cluster.site(0).wait(SEEN);
        let made = version(0, mode);
        for command in ["fsync f", "close f", "unmap m"] {
            program.run(command);
            assert_eq!(version(1, mode), made, "{mode}: {command} wrote what nobody stored");
        }
        drop((program, reader));
    }
    cluster.assert_converges();
}

/// Both map it shared and store into different pages, neither having seen the other's: the later content wins whole.
#[test]
fn two_sites_that_map_one_file_end_with_the_content_of_one() {
    let cluster = Cluster::start(2, Options::default());
    for (mode, passed_through) in MODES {
        make(&cluster, mode, 20 * 4096);
        let readers = [0, 1].map(|site| hold(&cluster.site(site).mountpoint, mode, passed_through));
        let mut programs = [0, 1].map(|site| mapper(&cluster.site(site).mountpoint));
        for program in &mut programs {
            program.run(&format!("open f r+w {mode}"));
            program.run("map m f shared 81920");
        }
        cluster.network().cut_all();
        for (site, program) in programs.iter_mut().enumerate() {
            for page in (site..20).step_by(2) {
                program.run(&format!("store m {} {} 4096", page * 4096, 48 + site));
            }
            program.run("fsync f");
        }
        let candidates = [0, 1].map(|site| fs::read(cluster.site(site).path(mode)).unwrap());
        assert_ne!(candidates[0], candidates[1]);
        cluster.network().heal_all();
        cluster.assert_converges();
        let content = fs::read(cluster.site(0).path(mode)).unwrap();
        assert!(candidates.contains(&content), "{mode}: a mix of both");
        for program in &mut programs {
            // Nobody died, and all see the same.
            let first = program.run("load m 0 4097");
            assert_eq!(first, if content == candidates[0] { "4096x0,1xa" } else { "4096xa,1x1" }, "{mode}");
            program.run("close f");
        }
        drop((programs, readers));
        cluster.assert_converges();
    }
}

/// What was stored is kept when the daemon dies: by msync, fsync or close; and, where mappings go to the object, at once, and what the program stores
/// afterwards.
#[test]
fn a_daemon_that_is_killed_takes_no_store_with_it() {
    let mut cluster = Cluster::start(2, Options::default());
    for (mode, passed_through) in MODES {
        make(&cluster, mode, LEN);
        let here = cluster.site(0).mountpoint.clone();
        let reader = hold(&here, mode, passed_through);
        let mut program = mapper(&here);
        program.run(&format!("open f r+w {mode}"));
        program.run(&format!("map m f shared {LEN}"));
        program.run("store m 10 98 2");
        program.run("msync m");
        let of_object = passed_through && !cluster.is_cached();
        // The last that is journalled is older than what is stored over it.
        program.run("write f 40 120 2");
        program.run("store m 41 102 2");
        program.run("msync m");
        if of_object {
            program.run("store m 20 99 2");
        }
        cluster.crash_site(0);
        cluster.site(0).wait(SEEN);
        let there = cluster.site(1).path(mode);
        await_bytes(&there, 9, b"abba", mode);
        await_bytes(&there, 39, b"axffa", mode);
        if of_object {
            await_bytes(&there, 19, b"acca", "what was not synced");
            // The mapping is of the object, and outlived the daemon.
            for (offset, byte) in [(30, b'd'), (8000, b'e')] {
                program.run(&format!("store m {offset} {byte} 2"));
                await_bytes(&there, offset - 1, &[b'a', byte, byte, b'a'], "after the daemon's end");
            }
        }
        drop((program, reader));
    }
    cluster.assert_converges();
}

#[test]
fn in_a_sync_directory_what_was_stored_is_at_the_peer_when_the_call_returns() {
    let cluster = Cluster::start(2, Options::default());
    sync_state::make(cluster.site(0), "sync", &[("timeout", "60s")], &["b"], SEEN);
    for (mode, passed_through) in MODES {
        for end in ["fsync f", "close f", "msync m"] {
            // `msync` of a mapping of the object does not reach the daemon.
            if passed_through && end == "msync m" {
                continue;
            }
            let name = format!("sync/{mode}-{end}").replace(' ', "_");
            fs::write(cluster.site(0).path(&name), vec![b'a'; LEN as usize]).unwrap();
            let here = &cluster.site(0).mountpoint;
            let reader = hold(here, &name, passed_through);
            let mut program = mapper(here);
            program.run(&format!("open f r+w {name}"));
            program.run(&format!("map m f shared {LEN}"));
            for round in 0..3_u8 {
                program.run(&format!("store m 5000 {} 10", b'b' + round));
                program.run(end);
                let content = fs::read(cluster.site(1).path(&name)).unwrap();
                assert_eq!(content[5000..5010], [b'b' + round; 10], "{name}, round {round}");
                if end == "close f" {
                    break;
                }
            }
            drop(reader);
        }
    }
    cluster.assert_converges();
}

#[test]
fn programs_run_from_the_mount_and_are_not_written_while_they_do() {
    let cluster = Cluster::start(2, Options::default());
    let sleep = fs::read("/bin/sleep").unwrap();
    let plain = cluster.directory().join("sleep");
    for path in [plain.clone(), cluster.site(0).path("sleep")] {
        fs::write(&path, &sleep).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    cluster.wait_level();
    let run = |path: &Path, time: &str| Command::new(path).arg(time).stdin(Stdio::null()).spawn();
    let busy = |path: &Path| OpenOptions::new().write(true).open(path).err().and_then(|error| error.raw_os_error());
    assert!(run(&cluster.site(1).path("sleep"), "0").unwrap().wait().unwrap().success());
    let at = cluster.site(0).path("sleep");
    let mut running = [run(&plain, "1000").unwrap(), run(&at, "1000").unwrap()];
    assert_eq!(busy(&at), busy(&plain), "a running program is not opened for writing");
    let writer = OpenOptions::new().write(true).open(cluster.site(1).path("sleep")).unwrap();
    let refused = |path: &Path| run(path, "0").err().and_then(|error| error.raw_os_error());
    let plain_copy = cluster.directory().join("copy");
    fs::copy(&plain, &plain_copy).unwrap();
    let plain_writer = OpenOptions::new().write(true).open(&plain_copy).unwrap();
    assert_eq!(refused(&cluster.site(1).path("sleep")), refused(&plain_copy), "what is open for writing does not run");
    drop((writer, plain_writer));
    // Replaced, by rename, here and by the peer: the running one goes on, and the next is the new one.
    for site in [0, 1] {
        let mut new = File::create(cluster.site(site).path("new")).unwrap();
        new.write_all(&sleep).unwrap();
        new.write_all(&vec![0; site + 1]).unwrap();
        new.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
        drop(new);
        fs::rename(cluster.site(site).path("new"), cluster.site(site).path("sleep")).unwrap();
        cluster.site(site).wait(SEEN);
        assert!(running[1].try_wait().unwrap().is_none(), "the running program ended");
        assert!(run(&at, "0").unwrap().wait().unwrap().success());
        assert_eq!(fs::metadata(&at).unwrap().len(), (sleep.len() + site + 1) as u64);
    }
    for child in &mut running {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    cluster.assert_converges();
}

/// As `numpy.memmap(mode="r+")` does it.
#[test]
fn pages_of_a_large_file_that_are_stored_at_random_arrive() {
    const LARGE: u64 = 64 << 20;
    let cluster = Cluster::start(2, Options::default());
    let seed = Seed::from_env(SEED);
    for (mode, passed_through) in MODES {
        make(&cluster, mode, LARGE);
        let here = &cluster.site(0).mountpoint;
        let reader = hold(here, mode, passed_through);
        let mut program = mapper(here);
        program.run(&format!("open f r+w {mode}"));
        program.run(&format!("map m f shared {LARGE}"));
        program.run("close f");
        program.run(&format!("scatter m {} 1000", seed % 1_000_000));
        program.run("msync m");
        program.run("unmap m");
        drop((program, reader));
        // The system may tell of the end of a descriptor a moment after it.
        let expected = fs::read(cluster.site(0).path(mode)).unwrap();
        assert!(expected.iter().any(|byte| *byte != b'a'));
        eventually(SEEN, mode, || {
            cluster.site(0).wait(SEEN);
            if fs::read(cluster.site(1).path(mode)).unwrap() == expected { Ok(()) } else { Err("they differ".into()) }
        });
    }
    cluster.assert_converges();
}
