#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const FILE: FileId = FileId(0x0001_0000_0000_002a);

fn store() -> (tempfile::TempDir, Objects) {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::create(dir.path()).unwrap();
    (dir, objects)
}

#[test]
fn an_object_has_its_place_and_is_private() {
    let (dir, objects) = store();
    let mut opened = objects.open_object(FILE, true).unwrap().unwrap();
    assert!(opened.created);
    opened.handle.write_all(b"bytes").unwrap();
    let path = dir.path().join("objects/2a/000100000000002a");
    assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn opens_what_is_there_and_creates_only_when_told() {
    let (dir, objects) = store();
    assert!(objects.open_object(FILE, false).unwrap().is_none());
    assert!(objects.open_object(FILE, true).unwrap().unwrap().created);
    assert!(!objects.open_object(FILE, true).unwrap().unwrap().created);
    let again = Objects::open(dir.path()).unwrap();
    assert!(!again.open_object(FILE, false).unwrap().unwrap().created);
    assert!(Objects::create(dir.path()).is_err(), "a store is made once");
}

#[test]
fn removes() {
    let (_dir, objects) = store();
    assert!(!objects.remove(FILE).unwrap());
    let mut kept = objects.open_object(FILE, true).unwrap().unwrap().handle;
    assert!(objects.remove(FILE).unwrap());
    assert!(objects.open_object(FILE, false).unwrap().is_none());
    kept.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn lists_every_object_and_reports_every_stranger() {
    let (dir, objects) = store();
    let files: BTreeSet<FileId> = (1..600).map(|n| FileId((7 << 48) | (n * 3))).collect();
    for file in &files {
        objects.open_object(*file, true).unwrap();
    }
    let root = dir.path().join("objects");
    let strangers = ["README", "100", "2a/000100000000002A", "2b/000100000000002a", "2a/2a", "00/0000000000000100"];
    for name in strangers {
        if name.starts_with("00/") {
            std::fs::create_dir(root.join(name)).unwrap();
        } else {
            std::fs::write(root.join(name), b"").unwrap();
        }
    }
    let (mut listed, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for found in objects.list().unwrap() {
        match found.unwrap() {
            Found::Object(file) => assert!(listed.insert(file), "{file} is listed twice"),
            Found::Unknown(path) => assert!(unknown.insert(path)),
        }
    }
    assert_eq!(listed, files);
    assert_eq!(unknown, strangers.iter().map(PathBuf::from).collect());
}

#[test]
fn follows_no_symbolic_link() {
    let (dir, objects) = store();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("000100000000002a"), b"secret").unwrap();

    symlink(outside.join("000100000000002a"), dir.path().join("objects/2a/000100000000002a")).unwrap();
    assert!(objects.open_object(FILE, true).is_err(), "a link in place of an object");

    std::fs::remove_dir_all(dir.path().join("objects/2a")).unwrap();
    symlink(&outside, dir.path().join("objects/2a")).unwrap();
    assert!(objects.open_object(FILE, true).is_err(), "a link in place of a directory");
    assert!(objects.remove(FILE).is_err());
    assert_eq!(std::fs::read(outside.join("000100000000002a")).unwrap(), b"secret");
}

#[test]
fn opens_only_regular_files() {
    let (dir, objects) = store();
    let fifo = dir.path().join("objects/2a/000100000000002a");
    fs::mknodat(fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_eq!(objects.open_object(FILE, true).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn many_threads_create_one_object_once() {
    let (_dir, objects) = store();
    for n in 1..50 {
        let created = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| objects.open_object(FileId(n), true).unwrap().unwrap().created))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|created| *created).count()
        });
        assert_eq!(created, 1);
    }
}
