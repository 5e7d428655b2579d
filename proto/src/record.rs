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

mod content;
mod fields;

use bytes::Bytes;

pub use self::content::{ContentChange, ContentHash, CopiedRange, Data, Edit, MAX_DATA_BYTES};
pub use self::fields::{
    Kind, MAX_TARGET_BYTES, MAX_XATTR_NAME_BYTES, Perms, Time, lane, name, option, position, put_option, put_position,
    put_stamp, stamp,
};
use self::fields::{file, list, put_file, xattr_name};
use crate::codec::{self, DecodeError, Reader};
use crate::hlc::{Hlc, Stamp};
use crate::ids::{EntryId, FileId, Position, Seq};
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

/// The largest xattr value in bytes (Linux `XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE_BYTES: usize = 1 << 16;

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
            Data::Extent(_) | Data::Copy(_) => None,
        }
    }

    /// How many bytes of content it refers to by extent.
    pub fn extent_len(&self) -> u64 {
        match self.data() {
            Some(Data::Extent(len)) => u64::from(*len),
            _ => 0,
        }
    }

    /// Where its bytes are, if it carries them neither by value nor by extent.
    pub fn copied(&self) -> Option<&CopiedRange> {
        match self.data()? {
            Data::Copy(range) => Some(range),
            Data::Bytes(_) | Data::Extent(_) => None,
        }
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

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
