use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;

struct Place {
    _keep: tempfile::TempDir,
    root: PathBuf,
    store: PathBuf,
}

fn place() -> Place {
    let keep = tempfile::tempdir().expect("a directory");
    let root = keep.path().canonicalize().expect("a path");
    let store = root.join("store");
    fs::create_dir(&store).expect("a store");
    Place { _keep: keep, root, store }
}

#[test]
fn an_empty_directory_will_do() {
    let place = place();
    let path = place.root.join("mount");
    fs::create_dir(&path).expect("made");
    std::os::unix::fs::symlink(&path, place.root.join("link")).expect("made");
    match check(&place.root.join("link"), &place.store) {
        Ok(checked) => assert_eq!(checked, path),
        Err(MountError::NoDevice) => assert!(!Path::new("/dev/fuse").exists()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_is_wrong_is_said() {
    let place = place();
    let (missing, file, full) = (place.root.join("missing"), place.root.join("file"), place.root.join("full"));
    fs::write(&file, b"").expect("made");
    fs::create_dir_all(full.join("entry")).expect("made");
    assert!(matches!(check(&missing, &place.store), Err(MountError::Missing(path)) if path == missing));
    assert!(matches!(check(&file, &place.store), Err(MountError::NotDirectory(path)) if path == file));
    assert!(matches!(check(&full, &place.store), Err(MountError::NotEmpty(_) | MountError::NoDevice)));
}

#[test]
fn a_store_is_not_served_through_itself() {
    let place = place();
    let within = place.store.join("within");
    fs::create_dir(&within).expect("made");
    for path in [&place.root, &place.store, &within] {
        assert!(matches!(check(path, &place.store), Err(MountError::StoreInside { .. })), "{}", path.display());
    }
}

#[test]
fn a_mount_is_found_in_the_kernels_table() {
    let table = b"22 1 8:1 / / rw - ext4 /dev/vda rw\n\
        30 22 0:40 / /mnt/a\\040b rw,noatime shared:5 - fuse.syncline syncline#/srv/store rw,user_id=0\n\
        31 22 0:41 / /mnt/data rw - xfs /dev/vdb rw\n";
    assert_eq!(fuse_source(table, Path::new("/mnt/a b")).as_deref(), Some("syncline#/srv/store"));
    assert_eq!(fuse_source(table, Path::new("/mnt/data")), None, "an empty disk may be mounted over");
    assert_eq!(fuse_source(table, Path::new("/mnt")), None);
    assert_eq!(fuse_source(b"garbage\n\xff - \n", Path::new("/mnt")), None);
}

#[test]
fn the_kernels_escapes_are_undone() {
    assert_eq!(store_of_source("syncline\\043/srv/a%20b"), Some(PathBuf::from("/srv/a b")));
}

#[test]
fn a_source_that_is_not_ours_names_no_store() {
    for other in ["/dev/fuse", "syncline#%", "syncline#%4", "syncline#%zz"] {
        assert_eq!(store_of_source(other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn the_source_names_the_store(bytes in prop::collection::vec(1u8.., 0..40)) {
        let store = Path::new(OsStr::from_bytes(&bytes));
        let source = source_of_store(store);
        prop_assert!(source.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b'\\'));
        prop_assert_eq!(store_of_source(&source), Some(store.to_path_buf()));
    }
}
