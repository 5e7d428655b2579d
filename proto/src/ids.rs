//! Names of things and places that all sites agree on.

use std::fmt;

/// One full replica of a volume. Assigned when the site joins, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteId(pub u16);

/// A file, directory or other inode; the inode number at every site.
///
/// 16 bits of the site that created it above 48 bits of that site's counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u64);

impl FileId {
    /// The volume's root directory. Site 0 does not exist, so no site allocates it.
    pub const ROOT: FileId = FileId(1);
    /// The largest value of a site's counter.
    pub const COUNTER_MAX: u64 = (1 << 48) - 1;

    /// The id with `counter` of `site`, or `None` when the counter is used up or zero.
    pub fn new(site: SiteId, counter: u64) -> Option<Self> {
        (1..=Self::COUNTER_MAX).contains(&counter).then_some(Self((u64::from(site.0) << 48) | counter))
    }

    /// The site that created the file.
    pub fn site(self) -> SiteId {
        SiteId((self.0 >> 48) as u16)
    }

    /// The creating site's counter.
    pub fn counter(self) -> u64 {
        self.0 & Self::COUNTER_MAX
    }
}

/// One of a site's ordered streams of records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Lane {
    /// Records whose writers wait for the other sites.
    Sync = 0,
    /// Asynchronous, before `Normal`.
    High = 1,
    /// Asynchronous, the default.
    Normal = 2,
    /// Asynchronous, after everything else.
    Bulk = 3,
}

impl Lane {
    /// Every lane, in order of its number.
    pub const ALL: [Lane; 4] = [Lane::Sync, Lane::High, Lane::Normal, Lane::Bulk];

    /// The lane with this number, if there is one.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The lane's name in commands, metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Sync => "sync",
            Lane::High => "high",
            Lane::Normal => "normal",
            Lane::Bulk => "bulk",
        }
    }
}

/// How often a site's store has come back older than its peers knew it; starts at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation(pub u32);

/// A record's number in its lane, counted from 1 without gaps. 0 stands before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Seq = Seq(0);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

/// How far one lane of one origin has come: the incarnation first, then the sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LanePoint {
    /// The origin's incarnation.
    pub incarnation: Incarnation,
    /// The last sequence number.
    pub seq: Seq,
}

impl LanePoint {
    /// Before the first record of a site's first incarnation.
    pub const START: LanePoint = LanePoint { incarnation: Incarnation(1), seq: Seq::ZERO };
}

/// Where a record was made. Never used twice; totally ordered within one lane of one site.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// The site that made the record.
    pub site: SiteId,
    /// That site's incarnation.
    pub incarnation: Incarnation,
    /// The lane of the record.
    pub lane: Lane,
    /// Its number in the lane.
    pub seq: Seq,
}

impl Position {
    /// The position's place in its lane.
    pub fn point(self) -> LanePoint {
        LanePoint { incarnation: self.incarnation, seq: self.seq }
    }
}

/// A directory entry: the position of the record that created it. A record creates one at most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId(pub Position);

/// The name of a volume that never changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeId(pub [u8; 16]);

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for LanePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation.0, self.seq.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.site, self.lane, self.point())
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
