//! Tells the kernel's caches what changed without a request.
//!
//! Runs on the thread that replays, never on one that answers requests: INVAL_ENTRY takes the directory's lock, which a
//! request may hold until it is answered, and dropping pages waits for reads of them. That thread must hold no lock that an
//! answer could need.
//!
//! Contents and attributes go before names: who finds a new name must not find old bytes behind it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use fuser::{INodeNo, Notifier};
use proto::ids::FileId;
use rustix::io::Errno;

use crate::types::Invalidation;

/// The kernel's caches of one mount.
pub trait KernelCaches {
    /// Forgets the name, or that it is missing.
    fn forget_entry(&self, parent: FileId, name: &[u8]) -> io::Result<()>;
    /// Forgets the attributes, and pages if `offset` is not negative: `len` bytes, up to the end if it is 0.
    fn forget_inode(&self, file: FileId, offset: i64, len: i64) -> io::Result<()>;
}

impl KernelCaches for Notifier {
    fn forget_entry(&self, parent: FileId, name: &[u8]) -> io::Result<()> {
        self.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name))
    }

    fn forget_inode(&self, file: FileId, offset: i64, len: i64) -> io::Result<()> {
        self.inval_inode(INodeNo(file.0), offset, len)
    }
}

/// The kernel drops attributes and no page.
const ATTRIBUTES_ONLY: i64 = -1;

/// Makes the kernel forget all of it.
pub fn invalidate(caches: &impl KernelCaches, changed: &[Invalidation]) {
    let mut attributes = BTreeSet::new();
    let mut with_content = BTreeSet::new();
    for change in changed {
        match change {
            // A name that the kernel doesn't know leaves the directory's times as it knows them.
            Invalidation::Entry { parent, .. } => _ = attributes.insert(*parent),
            Invalidation::Attr { file } => _ = attributes.insert(*file),
            Invalidation::Content { file, offset, len } => {
                with_content.insert(*file);
                let (offset, len) = page_range(*offset, *len);
                told(caches.forget_inode(*file, offset, len), "content", *file);
            }
        }
    }
    for file in attributes.difference(&with_content) {
        told(caches.forget_inode(*file, ATTRIBUTES_ONLY, 0), "attributes", *file);
    }
    for change in changed {
        if let Invalidation::Entry { parent, name } = change {
            told(caches.forget_entry(*parent, name.as_bytes()), "an entry", *parent);
        }
    }
}

/// The range for the kernel, which counts in signed numbers. What is too long goes to the end.
fn page_range(offset: u64, len: u64) -> (i64, i64) {
    let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
    match (i64::try_from(offset), i64::try_from(len), end) {
        (Ok(offset), Ok(len), Some(_)) => (offset, len),
        (Ok(offset), ..) => (offset, 0),
        (Err(_), ..) => (i64::MAX, 0),
    }
}

/// Not knowing the inode (ENOENT) is as good as forgetting it; so is being unmounted.
fn told(result: io::Result<()>, what: &str, file: FileId) {
    let Err(error) = result else { return };
    let harmless = [Errno::NOENT, Errno::NOTCONN, Errno::NODEV, Errno::NOTDIR];
    if !harmless.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        tracing::warn!("the kernel was not told that {what} of {file} changed, and may show the old: {error}");
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use proto::name::Name;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl KernelCaches for Told {
        fn forget_entry(&self, parent: FileId, name: &[u8]) -> io::Result<()> {
            self.0.lock().push(format!("entry {} {}", parent.0, name.escape_ascii()));
            Ok(())
        }

        fn forget_inode(&self, file: FileId, offset: i64, len: i64) -> io::Result<()> {
            self.0.lock().push(format!("inode {} {offset} {len}", file.0));
            Err(Errno::NOENT.into())
        }
    }

    fn entry(parent: u64, name: &[u8]) -> Invalidation {
        Invalidation::Entry { parent: FileId(parent), name: Name::new(name).expect("a name") }
    }

    #[test]
    fn names_come_last_and_attributes_once() {
        let told = Told::default();
        let changed = [
            entry(5, b"new"),
            entry(5, b"old"),
            Invalidation::Attr { file: FileId(7) },
            Invalidation::Attr { file: FileId(7) },
            Invalidation::Attr { file: FileId(8) },
            Invalidation::Content { file: FileId(8), offset: 4096, len: 10 },
        ];
        invalidate(&told, &changed);
        assert_eq!(*told.0.lock(), ["inode 8 4096 10", "inode 5 -1 0", "inode 7 -1 0", "entry 5 new", "entry 5 old"]);
    }

    #[test]
    fn ranges_stay_within_what_the_kernel_counts() {
        assert_eq!(page_range(0, 0), (0, 0));
        assert_eq!(page_range(10, 5), (10, 5));
        assert_eq!(page_range(10, u64::MAX), (10, 0));
        assert_eq!(page_range(i64::MAX as u64, 1), (i64::MAX, 0));
        assert_eq!(page_range(u64::MAX, 1), (i64::MAX, 0));
    }
}
