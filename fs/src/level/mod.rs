//! Brings this site level with a peer by its state, where records can't: they are no longer in its journal, or this site lost them.
//!
//! The peer streams its state of one instant; this site merges it into its own by the rules of the tree, and asks for the content of the files
//! whose stamp it did not have. What this site made and the peer lacks stays, and goes on being shipped as records.
//!
//! | module | concept |
//! |---|---|
//! | [`chunk`] | the format on the way |
//! | [`state`] | what the peer sends |
//! | [`knowledge`] | which records a site has seen |
//! | [`inodes`], [`entries`], [`content`] | merging each of them |
//! | [`staged`] | content that is on its way into an object |
//! | [`conclude`] | what can be judged only when all rows are merged, and the end |
//!
//! # Why the rows come out as if all records within the peer's frontiers had been applied
//!
//! All rows are registers that take the greatest value, or follow from such. The peer's value is the greatest of the records within its frontiers; so the greater of
//! both is that of all records that either has seen. *Absent* rows have no value to compare; there each site's knowledge decides. A row goes only when its removal
//! is stable: every site has applied it. So who lacks a row that it has seen created has seen it removed, for good; who has not seen it created, has never had it.
//!
//! That needs each side's rows and frontiers to be of one instant. The peer's are, in the snapshot. Here each row is judged in one transaction, with the
//! frontiers as they are then. But what was judged must stay so: a record within the peer's frontiers that replay applied behind the judging could create what
//! the peer has reclaimed, and nobody would look again. So lanes in which the peer is ahead are *held* until the end: their
//! replay waits ([`ReplayError::Levelling`](crate::replay::ReplayError)). What comes in other lanes, and what this site's programs do, the peer has not seen: it is kept, whenever it comes.
//! From the first entry to the end all lanes are held: from entries that are between two states this site can't tell what it has to answer to a record, and what is
//! applied must be answered before it is acknowledged. No content is fetched then, so that is short.
//!
//! # Why it may end anywhere
//!
//! Until the last batch, which raises the frontiers, the rows are valid values that are merely ahead of them. If it is never made, records that the rows
//! already have may come: each merges into the same registers and changes nothing, a file that it creates is known by its creation's stamp, and an entry
//! removed for its absence has a stamp that is later than anything that the peer has seen. Nothing here depends on what an earlier attempt did: the next one judges everything anew.
//!
//! Memory: one chunk of rows, and the files of which content is wanted; whoever drives this fetches them after each chunk.
//!
//! # What may be unlike records
//!
//! Names, attributes and content of different files come at different moments: this is no past state of the peer until it is finished. Content comes before the names
//! that lead to it.

pub(crate) mod chunk;
mod conclude;
mod content;
mod entries;
mod inodes;
pub(crate) mod knowledge;
pub(crate) mod staged;
pub(crate) mod state;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proto::hlc::{Hlc, Stamp};
use proto::ids::{FileId, Lane, LanePoint, SiteId};

use self::chunk::Chunk;
use self::content::{Fetch, Wanted};
use self::knowledge::Frontiers;
use crate::error::FsError;
use crate::journal::Lsn;
use crate::meta;
use crate::store::table::{Key, Table, Value};
use crate::txn::Txn;
use crate::volume::Volume;

/// Chunks in order, each below 2 MiB.
pub type Chunks = Box<dyn Iterator<Item = Result<Bytes, FsError>> + Send>;

/// What a state has rows of, in this order: everything else follows from them, or is a site's own affair.
pub(crate) const TABLES: [Table; 3] = [Table::Inode, Table::Xattr, Table::Entry];

/// Rows to one transaction.
const BATCH: usize = 128;
/// Files to one answer of [`Level::wanted`].
const WANTED: usize = 64;

/// A peer's state being taken in. Dropped before it is finished, it has to be begun again.
pub struct Level {
    volume: Arc<Volume>,
    from: SiteId,
    clock: Hlc,
    theirs: Frontiers,
    stage: Stage,
    wanted: BTreeMap<FileId, Wanted>,
    fetch: Option<Fetch>,
}

/// How far the state has come in.
enum Stage {
    /// Clock and frontiers.
    Start,
    /// Of this one of the tables, all keys up to and with `after` are merged.
    Rows { table: usize, after: Option<Key> },
    /// All rows are merged.
    End,
}

/// Which lanes' replay waits.
#[derive(Default, Debug)]
pub(crate) enum Held {
    /// None: no peer's state is being taken in.
    #[default]
    Nothing,
    /// Those in which the peer is ahead.
    Ahead(HashSet<(SiteId, Lane)>),
    /// All. The entries are between two states: nothing can be told from them.
    All,
}

/// What is so when a peer's state has been taken in.
#[derive(Clone, Debug)]
pub struct Levelled {
    /// How far this site's own lanes had come at the peer. Where that is beyond this site's journal, records were lost here.
    pub own: [LanePoint; Lane::ALL.len()],
    /// All of it is durable when this batch is.
    pub lsn: Lsn,
}

impl Volume {
    /// Begins to take in the state of `from`. Replay of lanes in which that peer is ahead waits until it is finished or dropped.
    ///
    /// # Errors
    /// [`FsError::Invalid`] while another is taken in.
    pub fn begin_level(self: &Arc<Self>, from: SiteId) -> Result<Level, FsError> {
        {
            let mut held = self.held.lock();
            if !matches!(*held, Held::Nothing) {
                return Err(FsError::Invalid("a peer's state is already being taken in"));
            }
            *held = Held::Ahead(HashSet::new());
        }
        let (clock, theirs, wanted) = Default::default();
        let level = Level { volume: Arc::clone(self), from, clock, theirs, stage: Stage::Start, wanted, fetch: None };
        let mut txn = Txn::begin(self)?;
        txn.put(Table::Meta, Bytes::from_static(meta::LEVELLING), Bytes::copy_from_slice(&from.0.to_be_bytes()));
        txn.commit_state()?;
        Ok(level)
    }

    /// Whether replay of the lane waits for a peer's state, or for a new incarnation.
    pub(crate) fn is_held(&self, origin: SiteId, lane: Lane) -> bool {
        self.tail_is_lost()
            || match &*self.held.lock() {
                Held::Nothing => false,
                Held::Ahead(lanes) => lanes.contains(&(origin, lane)),
                Held::All => true,
            }
    }

    /// Whether this site may make records in answer to others'.
    pub(crate) fn may_answer(&self) -> bool {
        !self.tail_is_lost() && !matches!(*self.held.lock(), Held::All)
    }

    /// Whether a peer whose state was taken in had records of this site's incarnation that this site has lost. Until a new incarnation begins, this site must not
    /// make records: they would have the positions of those. It answers nothing, so it replays and acknowledges nothing either.
    pub fn tail_is_lost(&self) -> bool {
        self.tail_lost.load(Ordering::SeqCst)
    }

    /// The peer whose state was begun to be taken in, and is not in yet: also after a restart.
    pub fn levelling(&self) -> Result<Option<SiteId>, FsError> {
        let row = self.rows.get(Table::Meta, meta::LEVELLING)?;
        Ok(row.and_then(|row| <[u8; 2]>::try_from(&row[..]).ok()).map(|site| SiteId(u16::from_be_bytes(site))))
    }
}

impl Level {
    /// Takes the next chunk of the state. Then [`wanted`](Self::wanted) should be asked.
    pub fn take(&mut self, chunk: &Bytes) -> Result<(), FsError> {
        match (Chunk::decode(chunk)?, &self.stage) {
            (Chunk::Clock(clock), Stage::Start) => {
                self.clock = clock;
                Ok(())
            }
            (Chunk::Frontier { site, lane, point }, Stage::Start) => {
                self.theirs.insert(site, lane, point);
                Ok(())
            }
            (Chunk::Rows { table, rows }, Stage::Start | Stage::Rows { .. }) => {
                self.hold()?;
                self.take_rows(table, rows)
            }
            (Chunk::End, Stage::Start | Stage::Rows { .. }) => {
                self.hold()?;
                self.finish_tables(TABLES.len())?;
                self.stage = Stage::End;
                Ok(())
            }
            _ => Err(FsError::Damaged("a peer's state has a chunk where none of its kind belongs".into())),
        }
    }

    /// Files whose content is needed now, a bounded number at a time: until there are none, before the next chunk of the state is taken. One whose content
    /// did not come whole is named again.
    pub fn wanted(&mut self) -> Result<Vec<FileId>, FsError> {
        self.fetch = None;
        Ok(self.wanted.keys().take(WANTED).copied().collect())
    }

    /// Takes the next chunk of a wanted file's content. The last one completes it.
    pub fn take_content(&mut self, chunk: &Bytes) -> Result<(), FsError> {
        let chunk = Chunk::decode(chunk)?;
        let (Chunk::Content { file, .. } | Chunk::Whole(file)) = chunk else {
            return Err(FsError::Damaged("a peer's content has a chunk of another kind".into()));
        };
        let Some(wanted) = self.wanted.get(&file).copied() else {
            return Err(FsError::Damaged(format!("a peer sent content of file {file} that was not asked for")));
        };
        let mut fetch = self.fetch.take().filter(|fetch| fetch.file() == file).unwrap_or_else(|| Fetch::new(wanted));
        match chunk {
            Chunk::Content { offset, bytes, .. } => {
                fetch.add(&self.volume, offset, bytes)?;
                self.fetch = Some(fetch);
            }
            _ => {
                self.adopt(fetch)?;
                self.wanted.remove(&file);
            }
        }
        Ok(())
    }

    /// Before the first row: what the peer has seen is known now.
    fn hold(&mut self) -> Result<(), FsError> {
        let Stage::Start = self.stage else { return Ok(()) };
        let own = self.volume.site();
        let mut txn = Txn::begin(&self.volume)?;
        // What is done here from now on is later than everything in the state.
        let now_ms = self.volume.now_ms();
        txn.clock().observe(self.clock, now_ms).map_err(|drift| FsError::Damaged(drift.to_string()))?;
        let mut held = HashSet::new();
        let mut lost = 0;
        for (site, lane, point) in self.theirs.iter() {
            if site != own {
                if point > knowledge::frontier(&txn, site, lane)? {
                    held.insert((site, lane));
                }
            } else if point > self.volume.own_point(lane) {
                // Each lost record may have created a file, perhaps one that is gone since: its id is not given again.
                let here = self.volume.own_point(lane);
                let same = point.incarnation == here.incarnation;
                lost += if same { point.seq.0 - here.seq.0 } else { point.seq.0 };
            }
        }
        let next_file = txn.next_file();
        txn.raise_next_file(next_file + lost);
        if lost > 0 {
            txn.put(Table::Meta, Bytes::from_static(meta::TAIL_LOST), Bytes::copy_from_slice(&1u64.to_be_bytes()));
            self.volume.tail_lost.store(true, Ordering::SeqCst);
        }
        // Under the writer's lock: no group of records is half applied.
        *self.volume.held.lock() = if lost > 0 { Held::All } else { Held::Ahead(held) };
        txn.commit_state()?;
        self.stage = Stage::Rows { table: 0, after: None };
        Ok(())
    }

    fn take_rows(&mut self, table: Table, rows: Vec<(Key, Value)>) -> Result<(), FsError> {
        let misplaced = || FsError::Damaged(format!("a peer's state has rows of table {table:?} where none belong"));
        let number = TABLES.iter().position(|other| *other == table).ok_or_else(misplaced)?;
        self.finish_tables(number)?;
        let Stage::Rows { table: current, after } = &self.stage else { return Err(misplaced()) };
        let ordered = rows.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let follows = rows.first().is_some_and(|(first, _)| after.as_ref().is_none_or(|after| first > after));
        if *current != number || !ordered || !follows {
            return Err(misplaced());
        }
        let last = rows.last().map(|(last, _)| last.clone());
        let keys: HashSet<Key> = rows.iter().map(|(key, _)| key.clone()).collect();
        self.absent_up_to(table, after.clone(), last.as_ref(), &keys)?;
        for batch in rows.chunks(BATCH) {
            let mut txn = Txn::begin(&self.volume)?;
            let mut wanted = Vec::new();
            for (key, row) in batch {
                match table {
                    Table::Inode => wanted.extend(self.merge_inode(&mut txn, key, row.clone())?),
                    Table::Xattr => self.merge_xattr(&mut txn, key, row.clone())?,
                    _ => self.merge_entry(&mut txn, key, row.clone())?,
                }
            }
            self.commit(txn)?;
            self.wanted.extend(wanted.into_iter().map(|wanted| (wanted.file, wanted)));
        }
        self.stage = Stage::Rows { table: number, after: last };
        Ok(())
    }

    /// No more rows of the tables before this one come.
    fn finish_tables(&mut self, until: usize) -> Result<(), FsError> {
        if TABLES.get(until).is_none_or(|table| *table == Table::Entry) {
            // Under the writer's lock, as above.
            let _writer = self.volume.writer.lock();
            *self.volume.held.lock() = Held::All;
        }
        while let Stage::Rows { table, after } = &self.stage
            && *table < until
        {
            let (table, after) = (*table, after.clone());
            self.absent_up_to(TABLES[table], after, None, &HashSet::new())?;
            self.stage = Stage::Rows { table: table + 1, after: None };
        }
        Ok(())
    }

    /// Looks at this site's rows above `after` and up to `last`, or to the end, that the peer does not have.
    fn absent_up_to(
        &self,
        table: Table,
        mut after: Option<Key>,
        last: Option<&Key>,
        theirs: &HashSet<Key>,
    ) -> Result<(), FsError> {
        if table == Table::Xattr {
            // A removed attribute keeps its row as long as its file: who lacks the row has not seen it.
            return Ok(());
        }
        loop {
            let rows = self.volume.rows.scan(table, b"", after.as_deref(), BATCH)?;
            let in_range = |key: &Key| last.is_none_or(|last| key <= last);
            let absent: Vec<Key> = rows
                .iter()
                .map(|(key, _)| key)
                .filter(|key| in_range(key) && !theirs.contains(*key))
                .cloned()
                .collect();
            if !absent.is_empty() {
                let mut txn = Txn::begin(&self.volume)?;
                for key in &absent {
                    match table {
                        Table::Inode => self.inode_is_absent(&mut txn, key)?,
                        _ => self.entry_is_absent(&mut txn, key)?,
                    }
                }
                self.commit(txn)?;
            }
            match rows.last() {
                Some((key, _)) if in_range(key) => after = Some(key.clone()),
                _ => return Ok(()),
            }
        }
    }

    fn commit(&self, txn: Txn<'_>) -> Result<Lsn, FsError> {
        if txn.is_empty() {
            return Ok(self.volume.appended());
        }
        let committed = txn.commit_state()?;
        self.volume.invalidate(&committed.invalidations);
        Ok(committed.appended.lsn)
    }

    /// A stamp later than the peer's own clock cannot be: it would win over everything, for ever.
    fn check_stamps<const N: usize>(&self, stamps: [Stamp; N]) -> Result<(), FsError> {
        match stamps.iter().find(|stamp| stamp.hlc > self.clock && stamp.position != knowledge::ABSENT) {
            None => Ok(()),
            Some(stamp) => {
                Err(FsError::Damaged(format!("a peer's state has a stamp ({}) ahead of its clock", stamp.position)))
            }
        }
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        *self.volume.held.lock() = Held::Nothing;
    }
}
