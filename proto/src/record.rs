//! One change to the tree, as it is journalled and shipped.
//!
//! ```text
//! record := seq:uint hlc:uint deps:list(position) op
//! op     := tag:u8 fields…                              (in the order of the variant's fields)
//! uint   := LEB128        int := zigzag LEB128           bytes := len:uint byte*
//! position := site:uint incarnation:uint lane:u8 seq:uint
//! stamp  := hlc:uint position          time := secs:int nanos:uint
//! ```
//!
//! Origin, incarnation and lane stand once, in the segment's or the batch's header. Records name files by id and say
//! what they saw (`deps`, `base`, the stamps of removed entries), so that every site reaches the same tree whatever the order
//! of arrival.

use bytes::Bytes;

use crate::codec::{self, DecodeError, Reader};
use crate::hlc::{Hlc, Stamp};
use crate::ids::{EntryId, FileId, Incarnation, Lane, Position, Seq, SiteId};
use crate::name::Name;

/// One change, with its place in its lane and what it was made upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its number in the lane.
    pub seq: Seq,
    /// When it was made. With the origin, the order in which the last writer wins.
    pub hlc: Hlc,
    /// Positions in other lanes or of other sites that must be applied before.
    pub deps: Vec<Position>,
    /// What changed.
    pub op: Op,
}

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

/// A directory entry as a remover saw it. It is removed only if nothing newer happened to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenEntry {
    /// The entry.
    pub entry: EntryId,
    /// Its stamp as the remover saw it.
    pub stamp: Stamp,
    /// The stamp of its file's content as the remover saw it: who wrote later had not been seen.
    pub content: Stamp,
}

/// Where an entry goes. It carries the target, so that it can bring back an entry that another site removed at the same time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// The entry.
    pub entry: EntryId,
    /// The file that it names.
    pub file: FileId,
    /// Its directory until now, as the mover saw it.
    pub from: FileId,
    /// Its directory from now on.
    pub parent: FileId,
    /// Its name from now on.
    pub name: Name,
}

/// New bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// By value.
    Bytes(Bytes),
    /// By extent: this many bytes that the origin's object holds. Only in the origin's own journal, never on the wire.
    Extent(u32),
}

impl Data {
    /// The number of bytes that it stands for.
    pub fn len(&self) -> u64 {
        match self {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Extent(len) => u64::from(*len),
        }
    }

    /// Whether it stands for no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A change to the content of one file: what was done, and upon what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContentChange {
    /// The file.
    pub file: FileId,
    /// The content stamp that the writer saw.
    pub base: Stamp,
    /// What was done.
    pub edit: Edit,
    /// The modification time afterwards; `None` keeps it.
    pub mtime: Option<Time>,
    /// The permission bits afterwards where the change cleared suid or sgid.
    pub mode: Option<u32>,
    /// When it was done, for the change time.
    pub time: Time,
}

/// What was done to a file's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Edit {
    /// Bytes from `offset` on; the file grows if they end beyond it.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        data: Data,
    },
    /// The file ends at `size`; where it grows, with a hole.
    Truncate {
        /// The new size in bytes.
        size: u64,
    },
    /// A hole from `offset` on, within the file's size.
    Punch {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// All content is replaced: the file is a hole of `size` bytes, and the writes that follow it in the lane fill it. It wins over
    /// all older content without having seen it.
    Replace {
        /// The new size in bytes.
        size: u64,
    },
}

/// What a record changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A new inode and its first entry, whose [`EntryId`] is the record's position.
    Create {
        /// The new inode.
        file: FileId,
        /// The directory.
        parent: FileId,
        /// The name there.
        name: Name,
        /// What it is.
        kind: Kind,
        /// Permissions and owner.
        perms: Perms,
        /// Birth, access, modification and change time.
        time: Time,
    },
    /// A further entry for an inode; its [`EntryId`] is the record's position.
    Link {
        /// The inode.
        file: FileId,
        /// The directory.
        parent: FileId,
        /// The name there.
        name: Name,
        /// When.
        time: Time,
    },
    /// `unlink` or `rmdir`: the entries that stood behind one name.
    Remove {
        /// The directory.
        parent: FileId,
        /// What is removed, as the remover saw it.
        entries: Vec<SeenEntry>,
        /// When.
        time: Time,
    },
    /// `rename`: one move, or two for an exchange, with what they overwrite, at once.
    Rename {
        /// Where entries go.
        moves: Vec<Move>,
        /// What stood at the new name.
        replaces: Vec<SeenEntry>,
        /// When.
        time: Time,
    },
    /// Permissions, owner, times.
    SetAttr {
        /// The inode.
        file: FileId,
        /// Permissions and owner, if they change.
        perms: Option<Perms>,
        /// Access time, if it changes.
        atime: Option<Time>,
        /// Modification time, if it changes.
        mtime: Option<Time>,
        /// When, for the change time.
        time: Time,
    },
    /// One extended attribute; `None` removes it.
    SetXattr {
        /// The inode.
        file: FileId,
        /// The attribute's full name, with its namespace.
        name: Bytes,
        /// Its value.
        value: Option<Bytes>,
        /// When, for the change time.
        time: Time,
    },
    /// The content of a file.
    Content(ContentChange),
}

/// The most bytes that one record's payload holds. A larger write is several records.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// The longest symlink target in bytes (Linux `PATH_MAX`).
pub const MAX_TARGET_BYTES: usize = 4096;
/// The longest xattr name in bytes (Linux `XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// The largest xattr value in bytes (Linux `XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE_BYTES: usize = 1 << 16;
/// The most items of a list in a record.
const MAX_LIST: usize = 4096;

impl Record {
    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        codec::put_u64(out, self.seq.0);
        codec::put_u64(out, self.hlc.0);
        codec::put_u64(out, self.deps.len() as u64);
        for dep in &self.deps {
            put_position(out, *dep);
        }
        self.op.encode(out);
    }

    /// Reads one record off the front.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let seq = Seq(reader.u64("a record's sequence number")?);
        let hlc = Hlc(reader.u64("a record's clock reading")?);
        let deps = list(reader, "a record's deps", position)?;
        Ok(Self { seq, hlc, deps, op: Op::decode(reader)? })
    }

    /// The bytes of content that it carries or refers to.
    pub fn data_len(&self) -> u64 {
        self.data().map_or(0, Data::len)
    }

    /// The bytes of content that it carries by value.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self.data()? {
            Data::Bytes(bytes) => Some(bytes),
            Data::Extent(_) => None,
        }
    }

    /// How many bytes of content it refers to by extent.
    pub fn extent_len(&self) -> u64 {
        self.data_len() - self.bytes().map_or(0, |bytes| bytes.len() as u64)
    }

    fn data(&self) -> Option<&Data> {
        match &self.op {
            Op::Content(ContentChange { edit: Edit::Write { data, .. }, .. }) => Some(data),
            _ => None,
        }
    }
}

impl Op {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Op::Create { file, parent, name, kind, perms, time } => {
                out.push(1);
                put_file(out, *file);
                put_file(out, *parent);
                codec::put_bytes(out, name.as_bytes());
                kind.encode(out);
                perms.encode(out);
                time.encode(out);
            }
            Op::Link { file, parent, name, time } => {
                out.push(2);
                put_file(out, *file);
                put_file(out, *parent);
                codec::put_bytes(out, name.as_bytes());
                time.encode(out);
            }
            Op::Remove { parent, entries, time } => {
                out.push(3);
                put_file(out, *parent);
                put_seen(out, entries);
                time.encode(out);
            }
            Op::Rename { moves, replaces, time } => {
                out.push(4);
                codec::put_u64(out, moves.len() as u64);
                for item in moves {
                    put_position(out, item.entry.0);
                    put_file(out, item.file);
                    put_file(out, item.from);
                    put_file(out, item.parent);
                    codec::put_bytes(out, item.name.as_bytes());
                }
                put_seen(out, replaces);
                time.encode(out);
            }
            Op::SetAttr { file, perms, atime, mtime, time } => {
                out.push(5);
                put_file(out, *file);
                put_option(out, perms.as_ref(), |out, perms| perms.encode(out));
                put_option(out, atime.as_ref(), |out, time| time.encode(out));
                put_option(out, mtime.as_ref(), |out, time| time.encode(out));
                time.encode(out);
            }
            Op::SetXattr { file, name, value, time } => {
                out.push(6);
                put_file(out, *file);
                codec::put_bytes(out, name);
                put_option(out, value.as_ref(), |out, value| codec::put_bytes(out, value));
                time.encode(out);
            }
            Op::Content(change) => {
                out.push(7);
                change.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match reader.u8("an operation's tag")? {
            1 => Op::Create {
                file: file(reader)?,
                parent: file(reader)?,
                name: name(reader)?,
                kind: Kind::decode(reader)?,
                perms: Perms::decode(reader)?,
                time: Time::decode(reader)?,
            },
            2 => Op::Link {
                file: file(reader)?,
                parent: file(reader)?,
                name: name(reader)?,
                time: Time::decode(reader)?,
            },
            3 => Op::Remove {
                parent: file(reader)?,
                entries: list(reader, "removed entries", seen)?,
                time: Time::decode(reader)?,
            },
            4 => Op::Rename {
                moves: list(reader, "moves", |reader| {
                    Ok(Move {
                        entry: EntryId(position(reader)?),
                        file: file(reader)?,
                        from: file(reader)?,
                        parent: file(reader)?,
                        name: name(reader)?,
                    })
                })?,
                replaces: list(reader, "replaced entries", seen)?,
                time: Time::decode(reader)?,
            },
            5 => Op::SetAttr {
                file: file(reader)?,
                perms: option(reader, Perms::decode)?,
                atime: option(reader, Time::decode)?,
                mtime: option(reader, Time::decode)?,
                time: Time::decode(reader)?,
            },
            6 => Op::SetXattr {
                file: file(reader)?,
                name: xattr_name(reader)?,
                value: option(reader, |reader| reader.bytes(MAX_XATTR_VALUE_BYTES, "an xattr's value"))?,
                time: Time::decode(reader)?,
            },
            7 => Op::Content(ContentChange::decode(reader)?),
            _ => return Err(DecodeError::Invalid { what: "an operation's tag" }),
        })
    }
}

impl ContentChange {
    fn encode(&self, out: &mut Vec<u8>) {
        put_file(out, self.file);
        put_stamp(out, self.base);
        match &self.edit {
            Edit::Write { offset, data: Data::Bytes(bytes) } => {
                out.push(1);
                codec::put_u64(out, *offset);
                codec::put_bytes(out, bytes);
            }
            Edit::Write { offset, data: Data::Extent(len) } => {
                out.push(2);
                codec::put_u64(out, *offset);
                codec::put_u64(out, u64::from(*len));
            }
            Edit::Truncate { size } => {
                out.push(3);
                codec::put_u64(out, *size);
            }
            Edit::Punch { offset, len } => {
                out.push(4);
                codec::put_u64(out, *offset);
                codec::put_u64(out, *len);
            }
            Edit::Replace { size } => {
                out.push(5);
                codec::put_u64(out, *size);
            }
        }
        put_option(out, self.mtime.as_ref(), |out, time| time.encode(out));
        put_option(out, self.mode.as_ref(), |out, mode| codec::put_u64(out, u64::from(*mode)));
        self.time.encode(out);
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let file = file(reader)?;
        let base = stamp(reader)?;
        let edit = match reader.u8("an edit's tag")? {
            1 => Edit::Write {
                offset: reader.u64("an offset")?,
                data: Data::Bytes(reader.bytes(MAX_DATA_BYTES, "a write's bytes")?),
            },
            2 => {
                Edit::Write { offset: reader.u64("an offset")?, data: Data::Extent(reader.uint("an extent's length")?) }
            }
            3 => Edit::Truncate { size: reader.u64("a size")? },
            4 => Edit::Punch { offset: reader.u64("an offset")?, len: reader.u64("a length")? },
            5 => Edit::Replace { size: reader.u64("a size")? },
            _ => return Err(DecodeError::Invalid { what: "an edit's tag" }),
        };
        edit.check()?;
        Ok(Self {
            file,
            base,
            edit,
            mtime: option(reader, Time::decode)?,
            mode: option(reader, mode)?,
            time: Time::decode(reader)?,
        })
    }
}

impl Edit {
    /// Files end at 2^63 - 1 at the latest, so no sum of an offset and a length overflows further on.
    fn check(&self) -> Result<(), DecodeError> {
        let (offset, len) = match self {
            Edit::Write { offset, data } => (*offset, data.len()),
            Edit::Punch { offset, len } => (*offset, *len),
            Edit::Truncate { size } | Edit::Replace { size } => (*size, 0),
        };
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
        end.map(|_| ()).ok_or(DecodeError::Invalid { what: "an offset and length" })
    }
}

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

fn put_file(out: &mut Vec<u8>, file: FileId) {
    codec::put_u64(out, file.0);
}

fn file(reader: &mut Reader) -> Result<FileId, DecodeError> {
    let id = FileId(reader.u64("a file id")?);
    if id == FileId::ROOT || (id.site().0 != 0 && id.counter() != 0) {
        Ok(id)
    } else {
        Err(DecodeError::Invalid { what: "a file id" })
    }
}

fn mode(reader: &mut Reader) -> Result<u32, DecodeError> {
    let mode = reader.uint("a mode")?;
    if mode & !0o7777 == 0 { Ok(mode) } else { Err(DecodeError::Invalid { what: "a mode" }) }
}

fn xattr_name(reader: &mut Reader) -> Result<Bytes, DecodeError> {
    let name = reader.bytes(MAX_XATTR_NAME_BYTES, "an xattr's name")?;
    if name.is_empty() || name.contains(&0) {
        return Err(DecodeError::Invalid { what: "an xattr's name" });
    }
    Ok(name)
}

fn put_seen(out: &mut Vec<u8>, entries: &[SeenEntry]) {
    codec::put_u64(out, entries.len() as u64);
    for item in entries {
        put_position(out, item.entry.0);
        put_stamp(out, item.stamp);
        put_stamp(out, item.content);
    }
}

fn seen(reader: &mut Reader) -> Result<SeenEntry, DecodeError> {
    Ok(SeenEntry { entry: EntryId(position(reader)?), stamp: stamp(reader)?, content: stamp(reader)? })
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

fn list<T>(
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

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
