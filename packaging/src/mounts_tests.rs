#![allow(clippy::unwrap_used)]

use super::*;

const TABLE: &str = r"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:20 / /mnt/data rw,nosuid,nodev - fuse.syncline syncline\043/var/lib/a%20b rw,user_id=0
23 22 0:21 / /mnt/data/in\040ner rw shared:2 master:3 - tmpfs tmpfs rw
24 21 0:22 / /mnt/data2 rw - fuse.sshfs host:/x rw
25 21 0:23 / /mnt/twice rw - fuse.syncline syncline#/one rw
26 25 0:24 / /mnt/twice rw - fuse.syncline syncline#/two rw
27 21 0:20 /a/b\040c /srv/part rw - fuse.syncline syncline#/one rw
nonsense
28 21";

fn mounts() -> Vec<Mount> {
    TABLE.as_bytes().split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

#[test]
fn lines_are_read_and_nonsense_is_left_out() {
    let mounts = mounts();
    assert_eq!(mounts.len(), 7);
    assert_eq!(mounts[1].point, Path::new("/mnt/data"));
    assert_eq!(mounts[1].fs_type, "fuse.syncline");
    assert_eq!(mounts[1].store(), Some(PathBuf::from("/var/lib/a b")));
    assert_eq!(mounts[2].point, Path::new("/mnt/data/in ner"));
    assert_eq!(mounts[3].store(), None);
}

#[test]
fn a_path_is_found_in_the_volume_also_through_a_bind_mount() {
    let mounts = mounts();
    for (path, expected) in
        [("/mnt/data", ""), ("/mnt/data/x/y", "x/y"), ("/srv/part", "a/b c"), ("/srv/part/x", "a/b c/x")]
    {
        let mount = containing(&mounts, Path::new(path)).unwrap();
        assert_eq!(mount.inside(Path::new(path)), Path::new(expected), "{path}");
    }
}

#[test]
fn the_longest_and_last_mount_holds_a_path() {
    let mounts = mounts();
    let point = |path: &str| containing(&mounts, Path::new(path)).unwrap().point.clone();
    assert_eq!(point("/mnt/data"), Path::new("/mnt/data"));
    assert_eq!(point("/mnt/data/x/y"), Path::new("/mnt/data"));
    assert_eq!(point("/mnt/data/in ner/x"), Path::new("/mnt/data/in ner"));
    assert_eq!(point("/mnt/data2/x"), Path::new("/mnt/data2"));
    assert_eq!(point("/mnt/data22"), Path::new("/"));
    assert_eq!(containing(&mounts, Path::new("/mnt/twice/x")).unwrap().store(), Some(PathBuf::from("/two")));
}

#[test]
fn octal_escapes() {
    assert_eq!(unescape(br"a\040b\134c\012"), b"a b\\c\n");
    assert_eq!(unescape(br"\04"), br"\04");
    assert_eq!(unescape(br"\999x\777"), br"\999x\777");
    assert_eq!(unescape("ü".as_bytes()), "ü".as_bytes());
}

#[test]
fn this_machine_has_a_table_and_what_is_not_ours_is_said() {
    assert!(table().unwrap().iter().any(|mount| mount.point == Path::new("/")));
    let message = find(Path::new("/proc")).unwrap_err().to_string();
    assert!(message.starts_with("/proc is not on a Syncline mount, but on proc at /proc"), "{message}");
    let message = find(Path::new("/nonexistent/x")).unwrap_err().to_string();
    assert!(message.starts_with("/nonexistent/x: No such file"), "{message}");
}

#[test]
fn relative_paths_and_links_are_resolved() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().canonicalize().unwrap();
    std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
    assert_eq!(resolve(&real.join("link/.")).unwrap(), real);
}
