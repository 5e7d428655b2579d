use std::sync::atomic::AtomicU32;

use super::*;

const FILE: FileId = FileId(7);

/// In an asynchronous directory.
fn how(access: Access) -> How {
    How { access, waits_at_close: false }
}

/// Counts how many of it live.
#[derive(Debug)]
struct Backing<'a>(&'a AtomicU32);

impl<'a> Backing<'a> {
    fn new(live: &'a AtomicU32) -> io::Result<Self> {
        live.fetch_add(1, Ordering::SeqCst);
        Ok(Self(live))
    }
}

impl Drop for Backing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn all_opens_of_an_inode_share_one_backing_until_the_last_release() {
    let live = AtomicU32::new(0);
    let files = OpenFiles::new(true);
    let first = files.admit(FILE, how(Access::Read), || Backing::new(&live));
    let second = files.admit(FILE, how(Access::Write), || panic!("registered twice"));
    let third = files.admit(FILE, how(Access::ReadWrite), || panic!("registered twice"));
    let backing = first.backing.expect("passed through");
    for other in [&second, &third] {
        assert!(other.backing.as_ref().is_some_and(|other| Arc::ptr_eq(other, &backing)));
    }
    assert!(!second.unseen_writes && third.unseen_writes);
    drop((backing, second, third));
    files.release(FILE);
    files.release(FILE);
    files.unmapped(FILE);
    assert_eq!(live.load(Ordering::SeqCst), 1);
    files.release(FILE);
    assert_eq!(live.load(Ordering::SeqCst), 1, "a mapping may be left");
    files.unmapped(FILE);
    assert_eq!(live.load(Ordering::SeqCst), 0);
    assert!(files.inodes.lock().is_empty(), "closed files leave nothing behind");
}

#[test]
fn an_inode_stays_passed_through_while_it_may_be_mapped() {
    let files = OpenFiles::new(true);
    files.admit(FILE, how(Access::Read), || Ok(()));
    files.admit(FILE, how(Access::ReadWrite), || panic!("registered twice"));
    files.release(FILE);
    files.release(FILE);
    let again = files.admit(FILE, how(Access::ReadWrite), || panic!("registered twice"));
    assert!(again.backing.is_some() && again.unseen_writes);
    files.release(FILE);
    files.unmapped(FILE);
    assert!(files.admit(FILE, how(Access::ReadWrite), || panic!("it is cached now")).backing.is_none());
}

#[test]
fn an_open_for_both_is_cached_and_so_is_all_beside_it() {
    let files = OpenFiles::<()>::new(true);
    for access in [Access::ReadWrite, Access::Read, Access::Write] {
        let admitted = files.admit(FILE, how(access), || panic!("nothing to register"));
        assert!(admitted.backing.is_none() && !admitted.unseen_writes);
        assert!(admitted.flags.contains(FopenFlags::FOPEN_KEEP_CACHE));
        assert!(!admitted.flags.contains(FopenFlags::FOPEN_DIRECT_IO));
    }
}

#[test]
fn a_lasting_refusal_ends_passing_through() {
    let files = OpenFiles::<()>::new(true);
    let admitted = files.admit(FILE, how(Access::Read), || Err(Errno::PERM.into()));
    assert!(admitted.backing.is_none());
    assert!(!files.passthrough());
    files.admit(FileId(8), how(Access::Read), || panic!("asked again"));
}

#[test]
fn a_passing_refusal_concerns_one_inode() {
    let files = OpenFiles::new(true);
    assert!(files.admit(FILE, how(Access::Read), || Err(Errno::MFILE.into())).backing.is_none());
    assert!(files.admit(FILE, how(Access::Read), || panic!("it is cached now")).backing.is_none());
    assert!(files.admit(FileId(8), how(Access::Read), || Ok(())).backing.is_some());
}

#[test]
fn close_waits_only_where_pages_may_be_dirty() {
    let files = OpenFiles::new(true);
    let noflush = |access| files.admit(FILE, how(access), || Ok(())).flags.contains(FopenFlags::FOPEN_NOFLUSH);
    assert!(noflush(Access::Read));
    assert!(noflush(Access::Write));
    assert!(!noflush(Access::ReadWrite));
}

#[test]
fn close_waits_for_all_that_write_where_the_directory_is_sync() {
    let files = OpenFiles::new(true);
    let noflush = |access| {
        let how = How { access, waits_at_close: true };
        files.admit(FILE, how, || Ok(())).flags.contains(FopenFlags::FOPEN_NOFLUSH)
    };
    assert!(noflush(Access::Read));
    assert!(!noflush(Access::Write));
    assert!(!noflush(Access::ReadWrite));
}

#[test]
fn a_passed_through_open_drops_cached_pages() {
    let files = OpenFiles::new(true);
    for access in [Access::Read, Access::Write, Access::ReadWrite] {
        let flags = files.admit(FILE, how(access), || Ok(())).flags;
        assert!(!flags.contains(FopenFlags::FOPEN_KEEP_CACHE), "a later cached open relies on it");
        assert_eq!(flags.contains(FopenFlags::FOPEN_DIRECT_IO), access != Access::Read, "writes must arrive here");
    }
}
