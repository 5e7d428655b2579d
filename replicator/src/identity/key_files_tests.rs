use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn a_file_is_written_for_its_owner_alone_and_replaced_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "key", b"one").expect("written");
    write(dir.path(), "key", b"two").expect("replaced");
    assert_eq!(mode(&dir.path().join("key")), 0o600);
    assert_eq!(read(dir.path(), "key").expect("read").as_slice(), b"two");
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing else is left behind");
}

#[test]
fn what_a_crash_left_beside_it_does_not_matter() {
    let dir = tempfile::tempdir().expect("a directory");
    let left = dir.path().join(".key.partial");
    fs::write(&left, b"half").expect("written");
    chmod(&left, 0o666);
    write(dir.path(), "key", b"whole").expect("written");
    assert_eq!(read(dir.path(), "key").expect("read").as_slice(), b"whole");
}

#[test]
fn a_file_that_others_can_use_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "key", b"secret").expect("written");
    let path = dir.path().join("key");
    for exposed in [0o640, 0o604, 0o620, 0o601] {
        chmod(&path, exposed);
        let error = read(dir.path(), "key").expect_err("refused");
        assert!(matches!(&error, KeyFileError::Exposed { mode, .. } if *mode == exposed), "{error}");
        let remedy = format!("has mode {exposed:04o}: others than its owner can use it.");
        assert!(error.to_string().contains(&remedy), "{error}");
        assert!(error.to_string().ends_with(&format!("run: chmod 0600 {}", path.display())), "{error}");
    }
    chmod(&path, 0o400);
    assert!(read(dir.path(), "key").is_ok());
}

#[test]
fn a_missing_and_an_endless_file_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(matches!(read(dir.path(), "key"), Err(KeyFileError::Missing { .. })));
    write(dir.path(), "key", &vec![0; MAX_FILE_BYTES as usize + 1]).expect("written");
    assert!(matches!(read(dir.path(), "key"), Err(KeyFileError::TooLong { .. })));
}

#[test]
fn a_directory_is_made_whole_and_never_over_another() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("d");
    fs::create_dir(parent.path().join(".d.partial")).expect("what a crash left");
    fs::write(parent.path().join(".d.partial/stale"), b"").expect("what a crash left");

    create_dir(parent.path(), "d", &[("a", b"1"), ("b", b"2")]).expect("made");
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 2);

    let again = create_dir(parent.path(), "d", &[("a", b"other")]);
    assert!(matches!(again, Err(KeyFileError::Exists { .. })), "{again:?}");
    assert_eq!(read(&dir, "a").expect("read").as_slice(), b"1");
    assert_eq!(fs::read_dir(parent.path()).expect("a directory").count(), 1, "no key is left beside it");

    check_dir(&dir).expect("private");
    chmod(&dir, 0o755);
    assert!(matches!(check_dir(&dir), Err(KeyFileError::Exposed { wanted: 0o700, .. })));
}
