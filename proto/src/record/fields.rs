//! What records are made of: times, permissions, kinds; positions, stamps, names as bytes.

use bytes::Bytes;

use crate::codec::{self, DecodeError, Reader};
use crate::hlc::{Hlc, Stamp};
use crate::ids::{FileId, Incarnation, Lane, Position, Seq, SiteId};
use crate::name::Name;

/// A point in time to the nanosecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time {
    /// Seconds since the Unix epoch; negative before it.
    pub secs: i64,
    /// Nanoseconds after that second, below 1,000,000,000.
    pub nanos: u32,
}

/// What an inode is, with what only that kind has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Bytes),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device, by number.
    CharDevice(u64),
    /// A block device, by number.
    BlockDevice(u64),
}

/// The permissions group: the last writer wins for all of it at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Perms {
    /// Permission bits with suid, sgid and sticky (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The longest symlink target in bytes (Linux `PATH_MAX`).
pub const MAX_TARGET_BYTES: usize = 4096;
/// The longest xattr name in bytes (Linux `XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// The most items of a list in a record.
const MAX_LIST: usize = 4096;

impl Time {
    /// Appends the time's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        codec::put_i64(out, self.secs);
        codec::put_u64(out, u64::from(self.nanos));
    }

    /// Reads a time.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let secs = reader.i64("a time's seconds")?;
        let nanos = reader.uint("a time's nanoseconds")?;
        if nanos >= 1_000_000_000 {
            return Err(DecodeError::Invalid { what: "a time's nanoseconds" });
        }
        Ok(Self { secs, nanos })
    }
}

impl Perms {
    /// Appends the group's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        codec::put_u64(out, u64::from(self.mode));
        codec::put_u64(out, u64::from(self.uid));
        codec::put_u64(out, u64::from(self.gid));
    }

    /// Reads the group.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { mode: mode(reader)?, uid: reader.uint("a uid")?, gid: reader.uint("a gid")? })
    }
}

impl Kind {
    /// Appends the kind's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Kind::Regular => out.push(1),
            Kind::Directory => out.push(2),
            Kind::Symlink(target) => {
                out.push(3);
                codec::put_bytes(out, target);
            }
            Kind::Fifo => out.push(4),
            Kind::Socket => out.push(5),
            Kind::CharDevice(rdev) => {
                out.push(6);
                codec::put_u64(out, *rdev);
            }
            Kind::BlockDevice(rdev) => {
                out.push(7);
                codec::put_u64(out, *rdev);
            }
        }
    }

    /// Reads a kind.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match reader.u8("a kind")? {
            1 => Kind::Regular,
            2 => Kind::Directory,
            3 => {
                let target = reader.bytes(MAX_TARGET_BYTES, "a symlink's target")?;
                if target.is_empty() || target.contains(&0) {
                    return Err(DecodeError::Invalid { what: "a symlink's target" });
                }
                Kind::Symlink(target)
            }
            4 => Kind::Fifo,
            5 => Kind::Socket,
            6 => Kind::CharDevice(reader.u64("a device number")?),
            7 => Kind::BlockDevice(reader.u64("a device number")?),
            _ => return Err(DecodeError::Invalid { what: "a kind" }),
        })
    }
}

/// Appends a position's bytes.
pub fn put_position(out: &mut Vec<u8>, position: Position) {
    codec::put_u64(out, u64::from(position.site.0));
    codec::put_u64(out, u64::from(position.incarnation.0));
    out.push(position.lane as u8);
    codec::put_u64(out, position.seq.0);
}

/// Reads a position.
pub fn position(reader: &mut Reader) -> Result<Position, DecodeError> {
    Ok(Position {
        site: SiteId(reader.uint("a site")?),
        incarnation: Incarnation(reader.uint("an incarnation")?),
        lane: lane(reader)?,
        seq: Seq(reader.u64("a sequence number")?),
    })
}

/// Appends a stamp's bytes.
pub fn put_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    codec::put_u64(out, stamp.hlc.0);
    put_position(out, stamp.position);
}

/// Reads a stamp.
pub fn stamp(reader: &mut Reader) -> Result<Stamp, DecodeError> {
    Ok(Stamp { hlc: Hlc(reader.u64("a clock reading")?), position: position(reader)? })
}

/// Reads a lane's number.
pub fn lane(reader: &mut Reader) -> Result<Lane, DecodeError> {
    Lane::from_u8(reader.u8("a lane")?).ok_or(DecodeError::Invalid { what: "a lane" })
}

/// Reads a name.
pub fn name(reader: &mut Reader) -> Result<Name, DecodeError> {
    let bytes = reader.bytes(Name::MAX_BYTES, "a name")?;
    Name::new(&bytes).map_err(|_| DecodeError::Invalid { what: "a name" })
}

pub(super) fn put_file(out: &mut Vec<u8>, file: FileId) {
    codec::put_u64(out, file.0);
}

pub(super) fn file(reader: &mut Reader) -> Result<FileId, DecodeError> {
    let id = FileId(reader.u64("a file id")?);
    if id == FileId::ROOT || (id.site().0 != 0 && id.counter() != 0) {
        Ok(id)
    } else {
        Err(DecodeError::Invalid { what: "a file id" })
    }
}

pub(super) fn mode(reader: &mut Reader) -> Result<u32, DecodeError> {
    let mode = reader.uint("a mode")?;
    if mode & !0o7777 == 0 { Ok(mode) } else { Err(DecodeError::Invalid { what: "a mode" }) }
}

pub(super) fn xattr_name(reader: &mut Reader) -> Result<Bytes, DecodeError> {
    let name = reader.bytes(MAX_XATTR_NAME_BYTES, "an xattr's name")?;
    if name.is_empty() || name.contains(&0) {
        return Err(DecodeError::Invalid { what: "an xattr's name" });
    }
    Ok(name)
}

/// Appends a value that may be absent.
pub fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// Reads a value that may be absent.
pub fn option<T>(
    reader: &mut Reader,
    read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    match reader.u8("an option")? {
        0 => Ok(None),
        1 => read(reader).map(Some),
        _ => Err(DecodeError::Invalid { what: "an option" }),
    }
}

pub(super) fn list<T>(
    reader: &mut Reader,
    what: &'static str,
    mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count: usize = reader.uint(what)?;
    if count > MAX_LIST {
        return Err(DecodeError::Invalid { what });
    }
    (0..count).map(|_| read(reader)).collect()
}
