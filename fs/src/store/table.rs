//! The tables and their keys. Keys sort by bytes, so numbers in them are big-endian.

use bytes::Bytes;
use proto::codec::DecodeError;
use proto::ids::{EntryId, FileId, Incarnation, Lane, LanePoint, Position, Seq, SiteId};
use proto::name::Name;

/// A table of the store. Its number is part of the batch format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// File id → inode.
    Inode = 1,
    /// Entry id → entry.
    Entry = 2,
    /// (directory, name) → the entries that stand there.
    Name = 3,
    /// (file, attribute name) → value and stamp.
    Xattr = 4,
    /// (origin, lane) → last position applied here.
    Frontier = 5,
    /// Key as text → small things that exist once.
    Meta = 6,
    /// Site → name and address.
    Member = 7,
    /// (peer, lane) → last position of ours that it acknowledged.
    Acknowledged = 8,
    /// (position of the removal, what) → things that go once every site has applied the removal.
    Garbage = 9,
    /// (lane, sequence number) → file, offset and length that an unacknowledged record refers to by extent.
    Extent = 10,
    /// (lane, sequence number, offset) → where the journal keeps bytes of such an extent that have been overwritten since.
    Saved = 11,
    /// File id → committed bytes may be being overwritten in place.
    Active = 12,
    /// (kind, id) → a record that this site still has to make, after replay showed it to be needed.
    Repair = 13,
    /// (file, entry id) → nothing: the live entries of what is not a directory.
    Link = 14,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 14] = [
        Table::Inode,
        Table::Entry,
        Table::Name,
        Table::Xattr,
        Table::Frontier,
        Table::Meta,
        Table::Member,
        Table::Acknowledged,
        Table::Garbage,
        Table::Extent,
        Table::Saved,
        Table::Active,
        Table::Repair,
        Table::Link,
    ];

    /// The table with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number.checked_sub(1)?)).copied()
    }

    /// Its index in arrays with one item a table.
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

/// A row's key.
pub type Key = Bytes;
/// A row's value.
pub type Value = Bytes;

/// The key of a file's row; the prefix of the keys of what belongs to it.
pub fn file_key(file: FileId) -> Key {
    Bytes::copy_from_slice(&file.0.to_be_bytes())
}

/// The key of an entry's row.
pub fn entry_key(entry: EntryId) -> Key {
    let mut key = Vec::with_capacity(POSITION_BYTES);
    put_position(&mut key, entry.0);
    key.into()
}

/// The key of a link: its file's key, then its entry's.
pub fn link_key(file: FileId, entry: EntryId) -> Key {
    let mut key = Vec::with_capacity(8 + POSITION_BYTES);
    key.extend_from_slice(&file.0.to_be_bytes());
    put_position(&mut key, entry.0);
    key.into()
}

/// The key of the entry in a link's key.
pub fn entry_key_of_link(key: &[u8]) -> Result<&[u8], DecodeError> {
    key.get(8..).ok_or(DecodeError::Short { what: "the key of a link" })
}

/// The entry of an entry's key.
pub fn entry_of_key(key: &[u8]) -> Result<EntryId, DecodeError> {
    read_position(key, "the key of an entry").map(EntryId)
}

/// The key of a name's row.
pub fn name_key(parent: FileId, name: &[u8]) -> Key {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&parent.0.to_be_bytes());
    key.extend_from_slice(name);
    key.into()
}

/// The name in a name's key.
pub fn name_of_key(key: &[u8]) -> Result<Name, DecodeError> {
    const WHAT: &str = "the key of a name";
    let name = key.get(8..).ok_or(DecodeError::Short { what: WHAT })?;
    Name::new(name).map_err(|_| DecodeError::Invalid { what: WHAT })
}

/// The key of an extended attribute.
pub fn xattr_key(file: FileId, name: &[u8]) -> Key {
    name_key(file, name)
}

/// The key of a lane of an origin or a peer.
pub fn lane_key(site: SiteId, lane: Lane) -> Key {
    let site = site.0.to_be_bytes();
    Bytes::copy_from_slice(&[site[0], site[1], lane as u8])
}

/// The site and lane of a lane's key.
pub fn lane_of_key(key: &[u8]) -> Result<(SiteId, Lane), DecodeError> {
    const WHAT: &str = "the key of a lane";
    let [high, low, lane] = key else { return Err(DecodeError::Short { what: WHAT }) };
    let lane = Lane::from_u8(*lane).ok_or(DecodeError::Invalid { what: WHAT })?;
    Ok((SiteId(u16::from_be_bytes([*high, *low])), lane))
}

/// The key, in the table of things that exist once, of the history of a lane of a site.
pub fn history_key(site: SiteId, lane: Lane) -> Key {
    let mut key = HISTORY.to_vec();
    key.extend_from_slice(&lane_key(site, lane));
    key.into()
}

/// The front of the keys of all histories.
pub const HISTORY: &[u8] = b"history/";

/// The key of an extent: lane, then sequence number.
pub fn extent_key(lane: Lane, seq: Seq) -> Key {
    let mut key = vec![lane as u8];
    key.extend_from_slice(&seq.0.to_be_bytes());
    key.into()
}

/// The lane and sequence number at the front of an extent's or a saved range's key.
pub fn extent_of_key(key: &[u8]) -> Result<(Lane, Seq), DecodeError> {
    const WHAT: &str = "the key of an extent";
    let (lane, seq) = key.get(..9).and_then(|key| key.split_first()).ok_or(DecodeError::Short { what: WHAT })?;
    let lane = Lane::from_u8(*lane).ok_or(DecodeError::Invalid { what: WHAT })?;
    Ok((lane, Seq(read_u64(seq, WHAT)?)))
}

/// The key of a saved range: its extent's key, then its offset.
pub fn saved_key(lane: Lane, seq: Seq, offset: u64) -> Key {
    let mut key = extent_key(lane, seq).to_vec();
    key.extend_from_slice(&offset.to_be_bytes());
    key.into()
}

/// The offset of a saved range's key.
pub fn saved_offset_of_key(key: &[u8]) -> Result<u64, DecodeError> {
    const WHAT: &str = "the key of a saved range";
    read_u64(key.get(9..).ok_or(DecodeError::Short { what: WHAT })?, WHAT)
}

/// What waits for a removal to be applied everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Garbage {
    /// An inode without entries that somebody holds. It waits for nothing else; its key has no removal.
    File(FileId),
    /// A removed entry.
    Entry(EntryId),
}

/// The key of a piece of garbage: the lane of the removal, then its point, then the thing.
pub fn garbage_key(removal: Position, what: Garbage) -> Key {
    let mut key = Vec::with_capacity(32);
    key.extend_from_slice(&garbage_prefix(removal.site, removal.lane));
    key.extend_from_slice(&removal.incarnation.0.to_be_bytes());
    key.extend_from_slice(&removal.seq.0.to_be_bytes());
    match what {
        Garbage::File(file) => {
            key.push(1);
            key.extend_from_slice(&file.0.to_be_bytes());
        }
        Garbage::Entry(entry) => {
            key.push(2);
            put_position(&mut key, entry.0);
        }
    }
    key.into()
}

/// The key of an inode that goes when nobody holds it any more.
pub fn held_key(file: FileId) -> Key {
    let nothing = Position { site: HELD_SITE, incarnation: Incarnation(0), lane: Lane::Sync, seq: Seq::ZERO };
    garbage_key(nothing, Garbage::File(file))
}

/// The front of the keys of all held inodes.
pub fn held_prefix() -> Key {
    garbage_prefix(HELD_SITE, Lane::Sync)
}

/// No site has this number.
const HELD_SITE: SiteId = SiteId(0);

/// The front of the keys of all garbage of one origin's lane.
pub fn garbage_prefix(site: SiteId, lane: Lane) -> Key {
    lane_key(site, lane)
}

/// The removal's point and the thing of a piece of garbage.
pub fn garbage_of_key(key: &[u8]) -> Result<(LanePoint, Garbage), DecodeError> {
    const WHAT: &str = "the key of garbage";
    let short = DecodeError::Short { what: WHAT };
    let incarnation = Incarnation(read_u32(key.get(3..7).ok_or(short)?, WHAT)?);
    let seq = Seq(read_u64(key.get(7..15).ok_or(short)?, WHAT)?);
    let (tag, rest) = key.get(15..).and_then(<[u8]>::split_first).ok_or(short)?;
    let what = match tag {
        1 => Garbage::File(FileId(read_u64(rest, WHAT)?)),
        2 => Garbage::Entry(EntryId(read_position(rest, WHAT)?)),
        _ => return Err(DecodeError::Invalid { what: WHAT }),
    };
    Ok((LanePoint { incarnation, seq }, what))
}

/// A record that replay showed to be needed, which only this site may make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Ship this file's content whole: it won over content that had not seen it.
    Rewrite(FileId),
    /// Put this entry back: its removal had not seen what this site did.
    Restore(EntryId),
}

/// The key of a pending repair.
pub fn repair_key(repair: Repair) -> Key {
    let mut key = Vec::with_capacity(16);
    match repair {
        Repair::Rewrite(file) => {
            key.push(1);
            key.extend_from_slice(&file.0.to_be_bytes());
        }
        Repair::Restore(entry) => {
            key.push(2);
            put_position(&mut key, entry.0);
        }
    }
    key.into()
}

/// The repair of a repair's key.
pub fn repair_of_key(key: &[u8]) -> Result<Repair, DecodeError> {
    const WHAT: &str = "the key of a repair";
    match key.split_first() {
        Some((1, rest)) => Ok(Repair::Rewrite(FileId(read_u64(rest, WHAT)?))),
        Some((2, rest)) => Ok(Repair::Restore(EntryId(read_position(rest, WHAT)?))),
        _ => Err(DecodeError::Invalid { what: WHAT }),
    }
}

const POSITION_BYTES: usize = 15;

fn put_position(key: &mut Vec<u8>, position: Position) {
    key.extend_from_slice(&position.site.0.to_be_bytes());
    key.extend_from_slice(&position.incarnation.0.to_be_bytes());
    key.push(position.lane as u8);
    key.extend_from_slice(&position.seq.0.to_be_bytes());
}

fn read_position(bytes: &[u8], what: &'static str) -> Result<Position, DecodeError> {
    if bytes.len() != POSITION_BYTES {
        return Err(DecodeError::Short { what });
    }
    Ok(Position {
        site: SiteId(u16::from_be_bytes([bytes[0], bytes[1]])),
        incarnation: Incarnation(read_u32(&bytes[2..6], what)?),
        lane: Lane::from_u8(bytes[6]).ok_or(DecodeError::Invalid { what })?,
        seq: Seq(read_u64(&bytes[7..], what)?),
    })
}

/// A big-endian number that fills `bytes`.
pub fn read_u64(bytes: &[u8], what: &'static str) -> Result<u64, DecodeError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| DecodeError::Short { what })
}

fn read_u32(bytes: &[u8], what: &'static str) -> Result<u32, DecodeError> {
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| DecodeError::Short { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        Position { site: SiteId(7), incarnation: Incarnation(2), lane: Lane::High, seq: Seq(99) }
    }

    #[test]
    fn tables_are_numbered_in_order() {
        for (index, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table.index(), index);
            assert_eq!(Table::from_u8(table as u8), Some(table));
        }
        assert_eq!(Table::from_u8(0), None);
    }

    #[test]
    fn keys_survive_a_round_trip() {
        let file = FileId::new(SiteId(3), 5).expect("a counter");
        for what in [Garbage::File(file), Garbage::Entry(EntryId(position()))] {
            assert_eq!(garbage_of_key(&garbage_key(position(), what)), Ok((position().point(), what)));
        }
        for repair in [Repair::Rewrite(file), Repair::Restore(EntryId(position()))] {
            assert_eq!(repair_of_key(&repair_key(repair)), Ok(repair));
        }
        assert_eq!(entry_of_key(&entry_key(EntryId(position()))), Ok(EntryId(position())));
        assert_eq!(lane_of_key(&lane_key(SiteId(9), Lane::Bulk)), Ok((SiteId(9), Lane::Bulk)));
        let link = link_key(file, EntryId(position()));
        assert_eq!(entry_key_of_link(&link), Ok(&entry_key(EntryId(position()))[..]));
        assert!(link.starts_with(&file_key(file)));
        let saved = saved_key(Lane::Sync, Seq(4), 12);
        assert_eq!(extent_of_key(&saved), Ok((Lane::Sync, Seq(4))));
        assert_eq!(saved_offset_of_key(&saved), Ok(12));
    }

    #[test]
    fn garbage_sorts_by_the_point_of_its_removal() {
        let entry = Garbage::Entry(EntryId(position()));
        let earlier = garbage_key(position(), entry);
        let later = garbage_key(Position { seq: Seq(100), ..position() }, Garbage::File(FileId::ROOT));
        assert!(earlier < later);
    }
}
