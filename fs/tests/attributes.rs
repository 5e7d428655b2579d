//! Who may have which bits and attributes.

mod common;

use common::Site;
use common::work::ROOT;
use fs::types::{Attr, Caller, SetAttr, XattrMode};
use fs::volume::Volume;
use proto::ids::FileId;
use proto::record::Kind;
use rustix::io::Errno;

const OWNER: Caller = Caller { uid: 5, gid: 5 };
const OTHER: Caller = Caller { uid: 6, gid: 5 };
const CAPABILITY: &[u8] = b"security.capability";

/// A file of [`OWNER`] with these bits.
fn file(volume: &Volume, name: &str, mode: u32, capabilities: bool) -> FileId {
    let file = volume.create(OWNER, FileId::ROOT, name.as_bytes(), Kind::Regular, 0o644).expect("a file").file;
    volume.setattr(ROOT, file, SetAttr { mode: Some(mode), ..SetAttr::default() }).expect("its mode");
    if capabilities {
        volume.setxattr(file, CAPABILITY, b"1", XattrMode::Set).expect("its capabilities");
    }
    file
}

#[test]
fn chown_that_leaves_owner_and_group_clears_suid() {
    let site = Site::new(1);
    let volume = site.volume();
    for (at, caller) in [ROOT, OWNER].into_iter().enumerate() {
        for (mode, left) in [(0o6755, 0o755), (0o2745, 0o2745), (0o4644, 0o644), (0o640, 0o640)] {
            // Of root's the kernel says the same before it writes to a file with capabilities, which leaves suid.
            let file = file(volume, &format!("{at}.{mode:o}"), mode, caller == OWNER);
            let before = volume.getattr(file).expect("attributes");
            let after = volume.setattr(caller, file, SetAttr::default()).expect("nothing set");
            assert_eq!(after.perms.mode, left, "{caller:?} {mode:o}");
            assert_eq!((after.perms.uid, after.perms.gid), (OWNER.uid, OWNER.gid));
            assert_eq!((after.mtime, after.atime), (before.mtime, before.atime));
            assert!(after.ctime > before.ctime || (mode == left && caller == ROOT), "{caller:?} {mode:o}");
            assert_eq!(volume.getxattr(file, CAPABILITY).expect_err("gone").errno(), Errno::NODATA);
        }
    }
    let directory = volume.create(OWNER, FileId::ROOT, b"d", Kind::Directory, 0o755).expect("a directory").file;
    let mode = Some(0o6755);
    volume.setattr(ROOT, directory, SetAttr { mode, ..SetAttr::default() }).expect("its mode");
    assert_eq!(volume.setattr(OWNER, directory, SetAttr::default()).expect("nothing set").perms.mode, 0o6755);
}

#[test]
fn nobody_clears_the_suid_of_a_file_of_others_so() {
    let site = Site::new(1);
    let volume = site.volume();
    let file = file(volume, "f", 0o6777, true);
    let before = volume.getattr(file).expect("attributes");
    let after = volume.setattr(OTHER, file, SetAttr::default()).expect("nothing set");
    // ext4 lets everybody do that to a file without suid.
    assert!(after.ctime > before.ctime);
    assert_eq!(after, Attr { ctime: after.ctime, ..before });
    assert_eq!(&volume.getxattr(file, CAPABILITY).expect("there")[..], b"1");
}

#[test]
fn an_attribute_has_a_name_in_its_namespace() {
    let site = Site::new(1);
    let volume = site.volume();
    for name in [&b"user."[..], b"trusted.", b"security."] {
        let set = volume.setxattr(FileId::ROOT, name, b"1", XattrMode::Set).expect_err("refused");
        let removed = volume.removexattr(FileId::ROOT, name).expect_err("refused");
        assert_eq!((set.errno(), removed.errno()), (Errno::INVAL, Errno::INVAL));
        volume.setxattr(FileId::ROOT, &[name, b"x"].concat(), b"1", XattrMode::Set).expect("set");
    }
}
