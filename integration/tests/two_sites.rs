//! Each kind of change made at one site is seen at the other, in both directions, by programs that look anew and by programs
//! that had looked before.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::outcome::eventually;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};

/// How long a change may take to be seen; far more than it should.
const SEEN: Duration = Duration::from_secs(20);

/// Each step changes the tree at `here`; after each the two trees must be equal, and `there` is looked at by name.
fn every_kind_of_change(cluster: &Cluster, here: usize, there: usize) {
    let at = |path: &str| cluster.site(here).path(format!("from-{here}")).join(path);
    let seen = |path: &str| cluster.site(there).path(format!("from-{here}")).join(path);
    let step = |what: &str, change: &dyn Fn(), check: &dyn Fn() -> bool| {
        change();
        cluster.site(here).wait(Duration::from_secs(60));
        assert!(check(), "{what}: not seen at site {there}");
        cluster.assert_equal();
    };
    let read = |path: &str| fs::read(seen(path)).unwrap_or_default();
    let write = |path: &str, bytes: &[u8]| fs::write(at(path), bytes).unwrap();
    let open = |path: &str| OpenOptions::new().write(true).open(at(path)).unwrap();

    step("mkdir", &|| fs::create_dir(at("")).unwrap(), &|| seen("").is_dir());
    step("create empty", &|| write("empty", b""), &|| read("empty").is_empty() && seen("empty").exists());
    step("create", &|| write("file", b"one"), &|| read("file") == b"one");
    step("large file", &|| write("large", &vec![7; 5_000_001]), &|| read("large") == vec![7; 5_000_001]);
    step("overwrite in place", &|| open("large").write_all_at(b"middle", 2_500_000).unwrap(), &|| {
        read("large")[2_499_999..2_500_007] == *b"\x07middle\x07"
    });
    step("overwrite with truncation", &|| write("file", b"two!"), &|| read("file") == b"two!");
    let append = || OpenOptions::new().append(true).open(at("file")).unwrap().write_all(b"three").unwrap();
    step("append", &append, &|| read("file") == b"two!three");
    step("truncate", &|| open("file").set_len(2).unwrap(), &|| read("file") == b"tw");
    step("extend", &|| open("file").set_len(100_000).unwrap(), &|| read("file").len() == 100_000);
    step("write beyond the end", &|| open("file").write_all_at(b"far", 1_000_000).unwrap(), &|| {
        read("file").ends_with(b"\0far") && read("file").len() == 1_000_003
    });
    step("rename", &|| fs::rename(at("file"), at("renamed")).unwrap(), &|| {
        !seen("file").exists() && seen("renamed").exists()
    });
    write("other", b"other");
    step("rename onto", &|| fs::rename(at("other"), at("renamed")).unwrap(), &|| {
        !seen("other").exists() && read("renamed") == b"other"
    });
    write("x", b"x");
    let exchange = || rustix::fs::renameat_with(CWD, at("x"), CWD, at("renamed"), RenameFlags::EXCHANGE).unwrap();
    step("exchange", &exchange, &|| read("renamed") == b"x" && read("x") == b"other");
    fs::create_dir_all(at("dir/sub")).unwrap();
    write("dir/sub/deep", b"deep");
    step("rename a directory", &|| fs::rename(at("dir"), at("moved")).unwrap(), &|| {
        !seen("dir").exists() && read("moved/sub/deep") == b"deep"
    });
    step("unlink", &|| fs::remove_file(at("renamed")).unwrap(), &|| !seen("renamed").exists());
    step("link", &|| fs::hard_link(at("x"), at("moved/y")).unwrap(), &|| {
        let (x, y) = (fs::metadata(seen("x")).unwrap(), fs::metadata(seen("moved/y")).unwrap());
        x.ino() == y.ino() && x.nlink() == 2
    });
    step("write by the other name", &|| write("moved/y", b"by y"), &|| read("x") == b"by y");
    step("unlink one name", &|| fs::remove_file(at("x")).unwrap(), &|| {
        fs::metadata(seen("moved/y")).unwrap().nlink() == 1
    });
    step("symlink", &|| symlink("moved/y", at("link")).unwrap(), &|| {
        fs::read_link(seen("link")).unwrap() == Path::new("moved/y") && read("link") == b"by y"
    });
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket), ("null", FileType::CharacterDevice)] {
        let device = rustix::fs::makedev(1, 3) * u64::from(name == "null");
        let make = || rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o600), device).unwrap();
        step(name, &make, &|| fs::symlink_metadata(seen(name)).is_ok());
    }
    let mode = || fs::set_permissions(at("large"), fs::Permissions::from_mode(0o4750)).unwrap();
    step("chmod", &mode, &|| fs::metadata(seen("large")).unwrap().mode() & 0o7777 == 0o4750);
    let owner = |name: &str| {
        let (uid, gid) = (Some(Uid::from_raw(1234)), Some(Gid::from_raw(5678)));
        rustix::fs::chownat(CWD, at(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    step("chown", &|| owner("large"), &|| fs::metadata(seen("large")).unwrap().uid() == 1234);
    step("chown a link", &|| owner("link"), &|| fs::symlink_metadata(seen("link")).unwrap().gid() == 5678);
    for (name, seconds) in [("large", 1_234_567), ("link", -5), ("moved", 4_000_000_000)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: 987_654_321 };
        let times = Timestamps { last_access: time, last_modification: time };
        let set = || rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let arrived = || {
            let meta = fs::symlink_metadata(seen(name)).unwrap();
            (meta.mtime(), meta.mtime_nsec()) == (seconds, 987_654_321)
        };
        step("utimens", &set, &arrived);
    }
    for name in ["large", "moved"] {
        let set = |value: &[u8]| rustix::fs::setxattr(at(name), "user.colour", value, XattrFlags::empty()).unwrap();
        let get = || {
            let mut value = [0; 100];
            let len = rustix::fs::getxattr(seen(name), "user.colour", &mut value[..]).ok()?;
            Some(value[..len].to_vec())
        };
        step("setxattr", &|| set(b"blue\0\xff"), &|| get().is_some_and(|v| v == b"blue\0\xff"));
        step("replace an xattr", &|| set(b""), &|| get().is_some_and(|v| v.is_empty()));
        step("removexattr", &|| rustix::fs::removexattr(at(name), "user.colour").unwrap(), &|| get().is_none());
    }
    step("rmdir", &|| fs::remove_dir_all(at("moved")).unwrap(), &|| !seen("moved").exists());
    step("remove everything", &|| fs::remove_dir_all(at("")).unwrap(), &|| !seen("").exists());
}

#[test]
fn every_kind_of_change_replicates_both_ways() {
    let cluster = Cluster::start(2, Options::default());
    every_kind_of_change(&cluster, 0, 1);
    every_kind_of_change(&cluster, 1, 0);
}

/// What programs at the other site had looked at before the change must not stay in the kernel's caches there.
#[test]
fn what_was_looked_at_before_is_seen_anew() {
    let cluster = Cluster::start(2, Options::default());
    for (here, there) in [(0, 1), (1, 0)] {
        let at = |name: &str| cluster.site(here).path(format!("{name}-{here}"));
        let seen = |name: &str| cluster.site(there).path(format!("{name}-{here}"));
        fs::write(at("file"), b"old").unwrap();
        fs::create_dir(at("dir")).unwrap();
        cluster.site(here).wait(SEEN);

        // A file that is open: new bytes, a new size, at the same descriptor.
        let mut open = File::open(seen("file")).unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
        let mut writer = OpenOptions::new().write(true).open(at("file")).unwrap();
        writer.write_all(b"new and longer").unwrap();
        eventually(SEEN, "an open file shows new bytes", || {
            text.clear();
            open.seek(SeekFrom::Start(0)).unwrap();
            open.read_to_string(&mut text).unwrap();
            if text == "new and longer" && open.metadata().unwrap().len() == 14 { Ok(()) } else { Err(text.clone()) }
        });
        writer.set_len(3).unwrap();
        eventually(SEEN, "an open file is seen to shrink", || {
            let len = open.metadata().unwrap().len();
            if len == 3 { Ok(()) } else { Err(format!("{len} bytes")) }
        });

        // A name that was looked for and not found.
        assert!(!seen("missing").exists());
        fs::write(at("missing"), b"there now").unwrap();
        eventually(SEEN, "a name that was missing is found", || fs::read(seen("missing")).map_err(|e| e.to_string()));

        // A name that was found, and is now another file, and then none.
        fs::write(at("swap"), b"swapped in").unwrap();
        fs::rename(at("swap"), at("missing")).unwrap();
        eventually(SEEN, "a name that was replaced shows the new file", || match fs::read(seen("missing")).unwrap() {
            bytes if bytes == b"swapped in" => Ok(()),
            bytes => Err(format!("{}", bytes.escape_ascii())),
        });
        fs::remove_file(at("missing")).unwrap();
        eventually(SEEN, "a name that was removed is gone", || match seen("missing").exists() {
            false => Ok(()),
            true => Err("still there".to_owned()),
        });

        // A directory that was listed.
        assert_eq!(fs::read_dir(seen("dir")).unwrap().count(), 0);
        for number in 0..50 {
            fs::write(at("dir").join(number.to_string()), b"").unwrap();
        }
        eventually(SEEN, "a listed directory shows new names", || match fs::read_dir(seen("dir")).unwrap().count() {
            50 => Ok(()),
            count => Err(format!("{count} names")),
        });

        // Attributes that were read.
        assert_ne!(fs::metadata(seen("dir")).unwrap().mode() & 0o7777, 0o1701);
        fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o1701)).unwrap();
        eventually(SEEN, "changed permissions are seen", || match fs::metadata(seen("dir")).unwrap().mode() & 0o7777 {
            0o1701 => Ok(()),
            mode => Err(format!("{mode:o}")),
        });
    }
    cluster.assert_converges();
}

/// A file that is open at one site and removed at the other stays readable until it is closed.
#[test]
fn an_open_file_outlives_its_removal_elsewhere() {
    let cluster = Cluster::start(2, Options::default());
    fs::write(cluster.site(0).path("file"), b"still here").unwrap();
    cluster.site(0).wait(SEEN);
    let open = File::open(cluster.site(1).path("file")).unwrap();
    fs::remove_file(cluster.site(0).path("file")).unwrap();
    cluster.site(0).wait(SEEN);
    assert!(!cluster.site(1).path("file").exists());
    let mut bytes = [0; 10];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"still here");
    drop(open);
    cluster.assert_converges();
}

/// A clean stop and start of both sites loses nothing and needs nothing.
#[test]
fn stop_and_start_go_on_where_they_were() {
    let mut cluster = Cluster::start(2, Options::default());
    fs::write(cluster.site(0).path("before"), b"1").unwrap();
    cluster.site_mut(1).stop();
    fs::write(cluster.site(0).path("between"), b"2").unwrap();
    cluster.site_mut(0).unmount();
    cluster.start_site(1);
    cluster.start_site(0);
    fs::write(cluster.site(1).path("after"), b"3").unwrap();
    cluster.assert_converges();
    for (name, text) in [("before", "1"), ("between", "2"), ("after", "3")] {
        for site in cluster.sites() {
            assert_eq!(fs::read_to_string(site.path(name)).unwrap(), text, "{name} at {}", site.name);
        }
    }
}
