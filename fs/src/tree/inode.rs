//! The row of an inode.
//!
//! ```text
//! inode := version:u8 kind created:stamp perms perms_stamp:stamp mode_stamp:stamp atime:time atime_stamp:stamp mtime:time mtime_stamp:stamp
//!          ctime:time btime:time nlink:uint subdirs:uint size:uint content:stamp whole:stamp unsettled:u8 entry:option(position)
//!          removed:uint
//! ```

use bytes::Bytes;
use proto::codec::{self, DecodeError, Reader};
use proto::hlc::{Hlc, Stamp};
use proto::ids::{EntryId, FileId, Incarnation, Lane, Position, Seq, SiteId};
use proto::record::{self, Kind, Perms, Time};

use crate::types::Attr;

/// An inode as the store keeps it: values with the stamps that order them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// What it is.
    pub kind: Kind,
    /// The record that created it.
    pub created: Stamp,
    /// Permissions and owner.
    pub perms: Perms,
    /// What last set all of them.
    pub perms_stamp: Stamp,
    /// What last set the mode: also a change of content that cleared suid, which does not touch the owner.
    pub mode_stamp: Stamp,
    /// Access time: set by programs and creation only, reading does not change it.
    pub atime: Time,
    /// What last set it.
    pub atime_stamp: Stamp,
    /// Modification time.
    pub mtime: Time,
    /// What last set it.
    pub mtime_stamp: Stamp,
    /// Change time, the latest of all changes.
    pub ctime: Time,
    /// Birth time.
    pub btime: Time,
    /// Live entries.
    pub nlink: u32,
    /// Of a directory: live entries in it that are directories.
    pub subdirs: u32,
    /// Bytes of content.
    pub size: u64,
    /// What last changed the content.
    pub content: Stamp,
    /// What began the content that `content` goes on from: creation, or a replacement of all of it.
    pub whole: Stamp,
    /// A change later than `whole` was seen that `content` does not go on from: other sites may hold a mix. See [`super::content`].
    pub unsettled: bool,
    /// Of a directory: its only entry. `None` for the root.
    pub entry: Option<EntryId>,
    /// Removed entries whose rows are kept, since some site may not know of the removal. An inode without any entry goes.
    pub removed: u32,
}

/// The stamp of what exists from the beginning: older than every record.
pub const GENESIS: Stamp = Stamp {
    hlc: Hlc(0),
    position: Position { site: SiteId(0), incarnation: Incarnation(0), lane: Lane::Sync, seq: Seq(0) },
};

const VERSION: u8 = 1;

impl Inode {
    /// A new inode, created by `stamp` at `time`.
    pub fn new(kind: Kind, perms: Perms, stamp: Stamp, time: Time) -> Self {
        let size = if let Kind::Symlink(target) = &kind { target.len() as u64 } else { 0 };
        Self {
            kind,
            created: stamp,
            perms,
            perms_stamp: stamp,
            mode_stamp: stamp,
            atime: time,
            atime_stamp: stamp,
            mtime: time,
            mtime_stamp: stamp,
            ctime: time,
            btime: time,
            nlink: 0,
            subdirs: 0,
            size,
            content: stamp,
            whole: stamp,
            unsettled: false,
            entry: None,
            removed: 0,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Whether a name leads to it: it is the root or has a live entry.
    pub fn is_linked(&self, file: FileId) -> bool {
        file == FileId::ROOT || self.nlink > 0
    }

    /// Whether no entry is left, not even a removed one: no site can give the inode a name again.
    pub fn is_gone(&self, file: FileId) -> bool {
        !self.is_linked(file) && self.removed == 0
    }

    /// What last set each of its parts. Not the modification time of a directory: that is set by everything that is done in it.
    pub fn stamps(&self) -> [Stamp; 6] {
        let mtime_stamp = if self.is_dir() { self.created } else { self.mtime_stamp };
        [self.created, self.perms_stamp, self.mode_stamp, self.atime_stamp, mtime_stamp, self.content]
    }

    /// Raises the change time; it never goes back.
    pub fn touch(&mut self, time: Time) {
        self.ctime = self.ctime.max(time);
    }

    /// Sets the mode if `stamp` is later than what last set it.
    pub fn set_mode(&mut self, mode: u32, stamp: Stamp) {
        if stamp > self.mode_stamp {
            self.perms.mode = mode;
            self.mode_stamp = stamp;
        }
    }

    /// Sets the modification time if `stamp` is later than what last set it.
    pub fn set_mtime(&mut self, mtime: Time, stamp: Stamp) {
        if stamp >= self.mtime_stamp {
            self.mtime = mtime;
            self.mtime_stamp = stamp;
        }
    }

    /// What `stat` shows, but for the blocks.
    pub fn attr(&self, file: FileId, blocks: u64) -> Attr {
        let (nlink, size) = if self.is_dir() {
            let own = if self.is_linked(file) { 2 } else { 0 };
            (own + self.subdirs, DIRECTORY_BYTES)
        } else {
            (self.nlink, self.size)
        };
        Attr {
            file,
            kind: self.kind.clone(),
            perms: self.perms,
            nlink,
            size,
            blocks,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
        }
    }

    /// The row.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        out.push(VERSION);
        self.kind.encode(&mut out);
        record::put_stamp(&mut out, self.created);
        self.perms.encode(&mut out);
        record::put_stamp(&mut out, self.perms_stamp);
        record::put_stamp(&mut out, self.mode_stamp);
        self.atime.encode(&mut out);
        record::put_stamp(&mut out, self.atime_stamp);
        self.mtime.encode(&mut out);
        record::put_stamp(&mut out, self.mtime_stamp);
        self.ctime.encode(&mut out);
        self.btime.encode(&mut out);
        codec::put_u64(&mut out, u64::from(self.nlink));
        codec::put_u64(&mut out, u64::from(self.subdirs));
        codec::put_u64(&mut out, self.size);
        record::put_stamp(&mut out, self.content);
        record::put_stamp(&mut out, self.whole);
        out.push(u8::from(self.unsettled));
        record::put_option(&mut out, self.entry.as_ref(), |out, entry| record::put_position(out, entry.0));
        codec::put_u64(&mut out, u64::from(self.removed));
        out.into()
    }

    /// Reads a row.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8("an inode's version")? != VERSION {
            return Err(DecodeError::Invalid { what: "an inode's version" });
        }
        let inode = Self {
            kind: Kind::decode(&mut reader)?,
            created: record::stamp(&mut reader)?,
            perms: Perms::decode(&mut reader)?,
            perms_stamp: record::stamp(&mut reader)?,
            mode_stamp: record::stamp(&mut reader)?,
            atime: Time::decode(&mut reader)?,
            atime_stamp: record::stamp(&mut reader)?,
            mtime: Time::decode(&mut reader)?,
            mtime_stamp: record::stamp(&mut reader)?,
            ctime: Time::decode(&mut reader)?,
            btime: Time::decode(&mut reader)?,
            nlink: reader.uint("a link count")?,
            subdirs: reader.uint("a subdirectory count")?,
            size: reader.u64("a size")?,
            content: record::stamp(&mut reader)?,
            whole: record::stamp(&mut reader)?,
            unsettled: reader.u8("whether content is settled")? != 0,
            entry: record::option(&mut reader, record::position)?.map(EntryId),
            removed: reader.uint("a count of removed entries")?,
        };
        reader.finish("an inode")?;
        Ok(inode)
    }
}

/// The size that `stat` shows for a directory.
const DIRECTORY_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_survives_a_round_trip() {
        let perms = Perms { mode: 0o4755, uid: 1000, gid: 7 };
        let time = Time { secs: -5, nanos: 999_999_999 };
        let target = Kind::Symlink(Bytes::from_static(b"../over/there"));
        for kind in [Kind::Regular, Kind::Directory, target, Kind::CharDevice(0x0103)] {
            let mut inode = Inode::new(kind, perms, GENESIS, time);
            inode.nlink = 3;
            inode.removed = 2;
            inode.unsettled = true;
            inode.size = u64::MAX >> 1;
            inode.entry = Some(EntryId(GENESIS.position));
            assert_eq!(Inode::decode(inode.encode()), Ok(inode));
        }
    }

    #[test]
    fn an_older_stamp_does_not_set_the_modification_time() {
        let later = Stamp { hlc: Hlc(9), ..GENESIS };
        let mut inode = Inode::new(Kind::Regular, Perms { mode: 0, uid: 0, gid: 0 }, later, Time::default());
        inode.set_mtime(Time { secs: 1, nanos: 0 }, GENESIS);
        assert_eq!(inode.mtime, Time::default());
    }
}
