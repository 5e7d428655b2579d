//! For each attribute: one difference is made and must be the one that is found. What is excluded must not be found.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::*;

const ALL: Strictness = Strictness { holes: true, identity: false };

/// A small tree with one thing of each sort.
fn make(root: &Path) {
    fs::create_dir(root).unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), "content").unwrap();
    fs::write(root.join("one"), "linked").unwrap();
    fs::hard_link(root.join("one"), root.join("two")).unwrap();
    fs::write(root.join("three"), "linked").unwrap();
    symlink("dir/file", root.join("link")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 * 4096).unwrap();
    sparse.write_all_at(b"data", 32 * 4096).unwrap();
    fs::write(root.join("device"), "").unwrap();
    for name in ["dir/file", "one", "three", "link", "sparse", "device", "dir", ""] {
        set_mtime(&root.join(name), 1_000_000_000, 123_456_789);
    }
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes the tree twice, changes the second with `change`, restores the times of what it touched, and compares.
fn after(change: impl FnOnce(&Path)) -> Vec<Difference> {
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    make(&left);
    make(&right);
    change(&right);
    compare(&left, &right, ALL).unwrap()
}

fn keep_times(path: &Path) {
    set_mtime(path, 1_000_000_000, 123_456_789);
}

/// Asserts that exactly `expected` is found.
#[track_caller]
fn expect(expected: &[(&str, Attribute)], change: impl FnOnce(&Path)) {
    let found = after(change);
    let got: Vec<_> = found.iter().map(|d| (d.path.to_str().unwrap(), d.attribute)).collect();
    assert_eq!(got, expected, "{}", report(&found, 20));
}

#[test]
fn equal_trees_have_no_difference() {
    expect(&[], |_| {});
}

#[test]
fn presence() {
    expect(&[("new", Attribute::Presence)], |root| {
        fs::write(root.join("new"), "").unwrap();
        keep_times(root);
    });
    expect(&[("link", Attribute::Presence)], |root| {
        fs::remove_file(root.join("link")).unwrap();
        keep_times(root);
    });
}

#[test]
fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let found = after(|root| {
        fs::rename(root.join("link"), root.join(std::ffi::OsStr::from_bytes(b"l\xffnk"))).unwrap();
        keep_times(root);
    });
    assert_eq!(found.len(), 2, "{}", report(&found, 20));
}

#[test]
fn kind() {
    expect(&[("device", Attribute::Kind)], |root| {
        fs::remove_file(root.join("device")).unwrap();
        rustix::fs::mknodat(CWD, root.join("device"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        keep_times(root);
    });
}

#[test]
fn mode_including_the_high_bits() {
    for mode in [0o600, 0o4644, 0o2644, 0o1644] {
        expect(&[("dir/file", Attribute::Mode)], |root| {
            fs::set_permissions(root.join("dir/file"), fs::Permissions::from_mode(mode)).unwrap();
        });
    }
}

#[test]
fn owner_of_a_file_and_of_a_link() {
    assert!(rustix::process::geteuid().is_root(), "not root: owners can't be changed here");
    for name in ["dir/file", "link"] {
        for (uid, gid) in [(Some(Uid::from_raw(77)), None), (None, Some(Gid::from_raw(78)))] {
            expect(&[(name, Attribute::Owner)], |root| {
                rustix::fs::chownat(CWD, root.join(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            });
        }
    }
}

#[test]
fn time_to_the_nanosecond_of_files_links_and_directories() {
    for name in ["dir/file", "link", "dir", ""] {
        expect(&[(name, Attribute::Mtime)], |root| set_mtime(&root.join(name), 1_000_000_000, 123_456_790));
        expect(&[(name, Attribute::Mtime)], |root| set_mtime(&root.join(name), -1_000_000_000, 123_456_789));
    }
}

#[test]
fn content_of_the_same_size() {
    expect(&[("dir/file", Attribute::Content)], |root| {
        fs::write(root.join("dir/file"), "cOntent").unwrap();
        keep_times(&root.join("dir/file"));
    });
}

#[test]
fn size_beyond_equal_content_blocks() {
    let found = after(|root| {
        fs::write(root.join("dir/file"), "content\0").unwrap();
        keep_times(&root.join("dir/file"));
    });
    assert!(found.iter().any(|d| d.attribute == Attribute::Size), "{}", report(&found, 20));
}

#[test]
fn holes() {
    let fill = |root: &Path| {
        let file = fs::OpenOptions::new().write(true).open(root.join("sparse")).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        drop(file);
        keep_times(&root.join("sparse"));
    };
    expect(&[("sparse", Attribute::Holes)], fill);
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    make(&left);
    make(&right);
    fill(&right);
    assert_eq!(compare(&left, &right, Strictness::COPIES).unwrap(), []);
}

#[test]
fn xattr_value_presence_and_absence() {
    let set = |path: &Path, value: &[u8]| rustix::fs::lsetxattr(path, "user.k", value, XattrFlags::empty()).unwrap();
    expect(&[("dir/file", Attribute::Xattr)], |root| set(&root.join("dir/file"), b"v"));
    expect(&[("dir", Attribute::Xattr)], |root| set(&root.join("dir"), b""));
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    make(&left);
    make(&right);
    set(&left.join("one"), b"v");
    set(&right.join("one"), b"w");
    let found = compare(&left, &right, ALL).unwrap();
    // Both names of the file show it.
    assert_eq!(found.iter().map(|d| d.attribute).collect::<Vec<_>>(), [Attribute::Xattr; 2]);
}

#[test]
fn hard_link_split_or_regrouped() {
    let found = after(|root| {
        fs::remove_file(root.join("two")).unwrap();
        fs::write(root.join("two"), "linked").unwrap();
        keep_times(&root.join("two"));
        keep_times(root);
    });
    let attributes: Vec<_> = found.iter().map(|d| d.attribute).collect();
    assert!(attributes.contains(&Attribute::HardLinks) && attributes.contains(&Attribute::LinkCount), "{attributes:?}");
    // Every name has the same bytes and the same number of links as before, but not the same companions.
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    for (root, pairs) in [(&left, [("a", "b"), ("c", "d")]), (&right, [("a", "c"), ("b", "d")])] {
        fs::create_dir(root).unwrap();
        for (first, second) in pairs {
            fs::write(root.join(first), "x").unwrap();
            fs::hard_link(root.join(first), root.join(second)).unwrap();
            keep_times(&root.join(first));
        }
        keep_times(root);
    }
    let found = compare(&left, &right, ALL).unwrap();
    assert!(!found.is_empty() && found.iter().all(|d| d.attribute == Attribute::HardLinks), "{}", report(&found, 20));
}

#[test]
fn link_target() {
    expect(&[("link", Attribute::Target), ("link", Attribute::Size)], |root| {
        fs::remove_file(root.join("link")).unwrap();
        symlink("dir/other", root.join("link")).unwrap();
        set_mtime(&root.join("link"), 1_000_000_000, 123_456_789);
        keep_times(root);
    });
}

#[test]
fn device_number() {
    assert!(rustix::process::geteuid().is_root(), "not root: devices can't be made here");
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    for (root, minor) in [(&left, 3), (&right, 5)] {
        fs::create_dir(root).unwrap();
        let device = rustix::fs::makedev(1, minor);
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, root.join("null"), FileType::CharacterDevice, mode, device).unwrap();
        keep_times(&root.join("null"));
        keep_times(root);
    }
    let found = compare(&left, &right, ALL).unwrap();
    assert_eq!(found.iter().map(|d| d.attribute).collect::<Vec<_>>(), [Attribute::Device]);
}

#[test]
fn identity_is_compared_between_replicas_only() {
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    make(&left);
    make(&right);
    let found = compare(&left, &right, Strictness::REPLICAS).unwrap();
    assert!(found.iter().all(|d| d.attribute == Attribute::Inode) && !found.is_empty(), "{}", report(&found, 20));
    assert_eq!(compare(&left, &left, Strictness::REPLICAS).unwrap(), []);
}

#[test]
fn a_link_to_the_outside_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/nowhere/at/all", dir.path().join("dangling")).unwrap();
    symlink("/", dir.path().join("root")).unwrap();
    assert_eq!(crate::tree::read(dir.path()).unwrap().len(), 3);
}
