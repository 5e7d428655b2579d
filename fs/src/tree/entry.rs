//! The rows of directory entries and of names.
//!
//! ```text
//! entry := parent:uint name:bytes file:uint stamp removal:option(position) from:option(parent:uint name:bytes)
//! name  := list(entry:position stamp file:uint kind:u8)          the one with the latest stamp first: it has the name
//! ```
//!
//! An entry is a last-writer-wins register over (parent, name): its value is the greatest (stamp, removed) that any site put
//! there, so the order of arrival does not matter. A removal carries the stamp that it saw, and wins against that
//! and all older values, not against later ones. A removed entry keeps its row until every site has applied the removal.

use bytes::Bytes;
use proto::codec::{self, DecodeError, Reader};
use proto::hlc::Stamp;
use proto::ids::{EntryId, FileId, Position};
use proto::name::Name;
use proto::record::{self, Kind};

/// An entry as the store keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its directory.
    pub parent: FileId,
    /// Its name there.
    pub name: Name,
    /// The inode that it names.
    pub file: FileId,
    /// What last moved it, or made it.
    pub stamp: Stamp,
    /// The record that removed it, having seen `stamp`; `None` while it stands.
    pub removal: Option<Position>,
    /// Of a directory's entry: where it stood before its last move. Two moves that form a cycle are mended by it.
    pub from: Option<(FileId, Name)>,
}

impl Entry {
    /// Whether it stands.
    pub fn is_alive(&self) -> bool {
        self.removal.is_none()
    }

    /// The row.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 + self.name.as_bytes().len());
        codec::put_u64(&mut out, self.parent.0);
        codec::put_bytes(&mut out, self.name.as_bytes());
        codec::put_u64(&mut out, self.file.0);
        record::put_stamp(&mut out, self.stamp);
        record::put_option(&mut out, self.removal.as_ref(), |out, removal| record::put_position(out, *removal));
        match &self.from {
            None => out.push(0),
            Some((parent, name)) => {
                out.push(1);
                codec::put_u64(&mut out, parent.0);
                codec::put_bytes(&mut out, name.as_bytes());
            }
        }
        out.into()
    }

    /// Reads a row.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let entry = Self {
            parent: FileId(reader.u64("an entry's directory")?),
            name: record::name(&mut reader)?,
            file: FileId(reader.u64("an entry's file")?),
            stamp: record::stamp(&mut reader)?,
            removal: record::option(&mut reader, record::position)?,
            from: match reader.u8("an entry's former place")? {
                0 => None,
                _ => Some((FileId(reader.u64("an entry's former place")?), record::name(&mut reader)?)),
            },
        };
        reader.finish("an entry")?;
        Ok(entry)
    }
}

/// One entry that stands behind a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The entry.
    pub entry: EntryId,
    /// Its stamp: the latest has the name.
    pub stamp: Stamp,
    /// The inode that it names.
    pub file: FileId,
    /// What that inode is.
    pub kind: KindTag,
}

/// A [`Kind`] without what only that kind has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum KindTag {
    /// A regular file.
    Regular = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A Unix socket.
    Socket = 5,
    /// A character device.
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

impl From<&Kind> for KindTag {
    fn from(kind: &Kind) -> Self {
        match kind {
            Kind::Regular => KindTag::Regular,
            Kind::Directory => KindTag::Directory,
            Kind::Symlink(_) => KindTag::Symlink,
            Kind::Fifo => KindTag::Fifo,
            Kind::Socket => KindTag::Socket,
            Kind::CharDevice(_) => KindTag::CharDevice,
            Kind::BlockDevice(_) => KindTag::BlockDevice,
        }
    }
}

impl KindTag {
    fn from_u8(tag: u8) -> Option<Self> {
        use KindTag::*;
        [Regular, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice].into_iter().find(|kind| *kind as u8 == tag)
    }
}

/// All live entries of one name in one directory. Sites that use a name at the same time make it more than one.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Candidates(Vec<Candidate>);

impl Candidates {
    /// The one that has the name: the latest.
    pub fn visible(&self) -> Option<&Candidate> {
        self.0.first()
    }

    /// All, the visible one first.
    pub fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.0.iter()
    }

    /// Whether the name is free.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an entry, or takes its new stamp.
    pub fn insert(&mut self, candidate: Candidate) {
        self.remove(candidate.entry);
        let place = self.0.partition_point(|other| other.stamp > candidate.stamp);
        self.0.insert(place, candidate);
    }

    /// Takes an entry away.
    pub fn remove(&mut self, entry: EntryId) {
        self.0.retain(|candidate| candidate.entry != entry);
    }

    /// The row; `None` where no entry is left.
    pub fn encode(&self) -> Option<Bytes> {
        if self.0.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(32 * self.0.len());
        codec::put_u64(&mut out, self.0.len() as u64);
        for candidate in &self.0 {
            record::put_position(&mut out, candidate.entry.0);
            record::put_stamp(&mut out, candidate.stamp);
            codec::put_u64(&mut out, candidate.file.0);
            out.push(candidate.kind as u8);
        }
        Some(out.into())
    }

    /// Reads a row.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count: usize = reader.uint("a name's entries")?;
        let mut candidates = Vec::with_capacity(count.min(16));
        for _ in 0..count {
            candidates.push(Candidate {
                entry: EntryId(record::position(&mut reader)?),
                stamp: record::stamp(&mut reader)?,
                file: FileId(reader.u64("a name's file")?),
                kind: KindTag::from_u8(reader.u8("a name's kind")?).ok_or(DecodeError::Invalid { what: "a kind" })?,
            });
        }
        reader.finish("a name")?;
        Ok(Self(candidates))
    }
}

#[cfg(test)]
mod tests {
    use proto::hlc::Hlc;
    use proto::ids::Seq;

    use super::super::inode::GENESIS;
    use super::*;

    fn stamp(clock: u64) -> Stamp {
        Stamp { hlc: Hlc(clock), position: Position { seq: Seq(clock), ..GENESIS.position } }
    }

    fn candidate(clock: u64) -> Candidate {
        let entry = EntryId(stamp(clock).position);
        Candidate { entry, stamp: stamp(clock), file: FileId(clock), kind: KindTag::Fifo }
    }

    #[test]
    fn rows_survive_a_round_trip() {
        let name = Name::new(b"a name\n\xff").expect("a name");
        for from in [None, Some((FileId(9), name.clone()))] {
            let entry = Entry {
                parent: FileId::ROOT,
                name: name.clone(),
                file: FileId(5),
                stamp: stamp(3),
                removal: from.as_ref().map(|_| GENESIS.position),
                from,
            };
            assert_eq!(Entry::decode(entry.encode()), Ok(entry));
        }
        let mut candidates = Candidates::default();
        assert_eq!(candidates.encode(), None);
        candidates.insert(candidate(1));
        candidates.insert(candidate(2));
        assert_eq!(Candidates::decode(candidates.encode().expect("a row")), Ok(candidates));
    }

    #[test]
    fn the_latest_has_the_name_whatever_the_order_of_arrival() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let mut candidates = Candidates::default();
            order.into_iter().for_each(|clock| candidates.insert(candidate(clock)));
            assert_eq!(candidates.visible(), Some(&candidate(3)));
            candidates.remove(candidate(3).entry);
            assert_eq!(candidates.visible(), Some(&candidate(2)));
        }
    }
}
