//! Attributes and extended attributes: what the numbers of a request mean. Pure.

use bytes::Bytes;
use fuser::TimeOrNow;
use rustix::fs::XattrFlags;

use super::convert::time_from_request;
use crate::error::FsError;
use crate::types::{Caller, SetAttr, SetTime, XattrMode};

/// A SETATTR's fields. The kernel's change time is left out: the volume's clock sets it.
pub fn set_attr(
    mode: Option<u32>,
    owner: (Option<u32>, Option<u32>),
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
) -> SetAttr {
    let (uid, gid) = owner;
    let mode = mode.map(|mode| mode & 0o7777);
    SetAttr { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time_from_request(time)),
    }
}

/// What setxattr expects, from its flags.
pub fn xattr_mode(flags: i32) -> Result<XattrMode, FsError> {
    match XattrFlags::from_bits_retain(flags.cast_unsigned()) {
        flags if flags.is_empty() => Ok(XattrMode::Set),
        XattrFlags::CREATE => Ok(XattrMode::Create),
        XattrFlags::REPLACE => Ok(XattrMode::Replace),
        _ => Err(FsError::Invalid("unknown flags of setxattr")),
    }
}

/// Whether the name is one that may be kept for programs. `system.` is the kernel's: an access control list kept there
/// would be shown and copied, but enforced by nobody.
pub fn xattr_allowed(name: &[u8]) -> Result<(), FsError> {
    if name.starts_with(b"system.") {
        return Err(FsError::NotSupported("access control lists and other system attributes"));
    }
    Ok(())
}

/// What the program gets for an attribute that could not be read.
///
/// Where there is no SELinux label, that labels are not supported: `ls -l` then asks once, and not for every file. Elsewhere
/// the kernel answers that in no time; here it would be most of the time that a listing takes.
pub fn xattr_missing(name: &[u8], error: FsError) -> FsError {
    match error {
        FsError::NoXattr if name == b"security.selinux" => FsError::NotSupported("labels, where none is set"),
        error => error,
    }
}

/// The answer to a request for bytes, of which `room` is what the program has; 0 asks for their number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum XattrAnswer {
    /// So many bytes.
    Size(u32),
    /// These.
    Data(Bytes),
}

/// Answers with the bytes or their number, or ERANGE where there is too little room.
pub fn xattr_answer(bytes: Bytes, room: u32) -> Result<XattrAnswer, FsError> {
    let size = u32::try_from(bytes.len()).map_err(|_| FsError::XattrRange)?;
    match room {
        0 => Ok(XattrAnswer::Size(size)),
        room if size <= room => Ok(XattrAnswer::Data(bytes)),
        _ => Err(FsError::XattrRange),
    }
}

/// The names that are listed for a caller: `trusted.` is for root, who alone may read it. The kernel leaves that to the file system.
pub fn xattrs_shown(mut names: Vec<Bytes>, caller: Caller) -> Vec<Bytes> {
    names.retain(|name| caller.uid == 0 || !name.starts_with(b"trusted."));
    names
}

/// Names as listxattr gives them, each ended by NUL.
pub fn xattr_names(names: &[Bytes]) -> Bytes {
    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proto::record::Time;

    use super::*;

    #[test]
    fn what_is_not_asked_for_stays() {
        assert_eq!(set_attr(None, (None, None), None, None, None), SetAttr::default());
    }

    #[test]
    fn what_is_asked_for_is_set() {
        let mtime = TimeOrNow::SpecificTime(UNIX_EPOCH + Duration::new(5, 6));
        let set = set_attr(Some(0o104_755), (Some(1), Some(2)), Some(3), Some(TimeOrNow::Now), Some(mtime));
        let expected = SetAttr {
            mode: Some(0o4755),
            uid: Some(1),
            gid: Some(2),
            size: Some(3),
            atime: Some(SetTime::Now),
            mtime: Some(SetTime::At(Time { secs: 5, nanos: 6 })),
        };
        assert_eq!(set, expected);
    }

    #[test]
    fn setxattr_flags() {
        assert_eq!(xattr_mode(0).ok(), Some(XattrMode::Set));
        assert_eq!(xattr_mode(1).ok(), Some(XattrMode::Create));
        assert_eq!(xattr_mode(2).ok(), Some(XattrMode::Replace));
        for bad in [3, 4, -1] {
            assert!(matches!(xattr_mode(bad), Err(FsError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn an_attribute_is_measured_before_it_is_given() {
        let value = Bytes::from_static(b"four");
        assert_eq!(xattr_answer(value.clone(), 0).ok(), Some(XattrAnswer::Size(4)));
        assert_eq!(xattr_answer(value.clone(), 4).ok(), Some(XattrAnswer::Data(value.clone())));
        assert_eq!(xattr_answer(value.clone(), 5).ok(), Some(XattrAnswer::Data(value.clone())));
        assert!(matches!(xattr_answer(value, 3), Err(FsError::XattrRange)));
        assert_eq!(xattr_answer(Bytes::new(), 0).ok(), Some(XattrAnswer::Size(0)));
    }

    #[test]
    fn a_missing_label_is_not_asked_for_again() {
        assert!(matches!(xattr_missing(b"security.selinux", FsError::NoXattr), FsError::NotSupported(_)));
        assert!(matches!(xattr_missing(b"security.selinux", FsError::NotFound), FsError::NotFound));
        assert!(matches!(xattr_missing(b"user.x", FsError::NoXattr), FsError::NoXattr));
    }

    #[test]
    fn only_root_is_told_of_trusted_attributes() {
        let names = || ["security.a", "trusted.a", "user.trusted.a"].map(Bytes::from).to_vec();
        let root = Caller { uid: 0, gid: 5 };
        let user = Caller { uid: 5, gid: 0 };
        assert_eq!(xattrs_shown(names(), root), names());
        assert_eq!(xattrs_shown(names(), user), ["security.a", "user.trusted.a"]);
    }

    #[test]
    fn names_end_with_nul() {
        assert_eq!(xattr_names(&[Bytes::from_static(b"user.a"), Bytes::from_static(b"user.b")]), "user.a\0user.b\0");
        assert_eq!(xattr_names(&[]), "");
    }

    #[test]
    fn unenforced_access_lists_are_refused() {
        assert!(matches!(xattr_allowed(b"system.posix_acl_access"), Err(FsError::NotSupported(_))));
        for good in [&b"user.system.x"[..], b"security.capability", b"trusted.x", b"user.syncline.mode"] {
            assert!(xattr_allowed(good).is_ok());
        }
    }
}
