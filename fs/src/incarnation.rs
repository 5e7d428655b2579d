//! This site's incarnations, and what is known of the others'.
//!
//! Invariants:
//! - an incarnation is opened by one batch, durable before any record is made in it: no position is given twice, whatever a crash leaves;
//! - file ids of different incarnations come from different ranges: what was created in a lost tail keeps its id;
//! - the history of another site's lane is at least as new as the lane's frontier here.
//!
//! Recovery opens an incarnation before it makes records of its own, if it has to make any: whether the journal's tail is lost, only the
//! peers could say. It costs one row; where nothing was lost, peers don't notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::RwLock;
use proto::codec::Reader;
use proto::history::{Histories, LaneHistory};
use proto::hlc::Hlc;
use proto::ids::{Incarnation, Lane, LanePoint, Position, Seq, SiteId};
use proto::record::Record;

use crate::error::FsError;
use crate::journal::ReadEnd;
use crate::meta;
use crate::peers::Frontier;
use crate::ship::ReadLaneError;
use crate::store::table::{self, Table};
use crate::txn::Txn;
use crate::volume::Volume;

/// File ids that one incarnation has for itself: more than a lost tail can have used.
const FILES_OF_INCARNATION: u64 = 1 << 28;

/// The histories, in memory.
#[derive(Default)]
pub struct Incarnations {
    own: RwLock<Arc<Histories>>,
    others: RwLock<BTreeMap<(SiteId, Lane), LaneHistory>>,
}

impl Incarnations {
    /// An incarnation was opened. Under the writer's lock.
    pub(crate) fn set_own(&self, histories: Histories) {
        *self.own.write() = Arc::new(histories);
    }
}

impl Volume {
    /// The incarnation in which this site makes records. It changes under the writer's lock only.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnations.own.read()[0].current()
    }

    /// The histories of this site's lanes.
    pub fn own_histories(&self) -> Arc<Histories> {
        self.incarnations.own.read().clone()
    }

    /// The history of one of this site's lanes.
    pub fn lane_history(&self, lane: Lane) -> LaneHistory {
        self.incarnations.own.read()[lane as usize].clone()
    }

    /// What is known of another site's lane.
    pub fn history_of(&self, origin: SiteId, lane: Lane) -> LaneHistory {
        self.incarnations.others.read().get(&(origin, lane)).cloned().unwrap_or_default()
    }

    /// Every history that is known here, this site's own among them.
    pub fn known_histories(&self) -> Vec<(SiteId, Lane, LaneHistory)> {
        let own = self.own_histories();
        let own = Lane::ALL.into_iter().map(|lane| (self.site(), lane, own[lane as usize].clone()));
        let others = self.incarnations.others.read();
        own.chain(others.iter().map(|((site, lane), history)| (*site, *lane, history.clone()))).collect()
    }

    /// Opens an incarnation higher than `above` and all before. `recovered`, by lane: all that peers had whose state is part of this
    /// site's now; what was here anyway may be among it. Durable when this returns; no record was made between.
    pub fn begin_incarnation(
        &self,
        above: Incarnation,
        recovered: &[Vec<LanePoint>; Lane::ALL.len()],
    ) -> Result<Incarnation, FsError> {
        let mut txn = Txn::begin(self)?;
        let now_ms = self.now_ms();
        let opened = txn.clock().tick(now_ms);
        let used_up = || FsError::Damaged("this site's incarnations are used up".into());
        let incarnation = Incarnation(self.incarnation().max(above).0.checked_add(1).ok_or_else(used_up)?);
        let mut histories = Histories::clone(&self.own_histories());
        for (lane, history) in Lane::ALL.into_iter().zip(&mut histories) {
            history.open(incarnation, opened, self.journal.lane_head(lane).seq, &recovered[lane as usize]);
            txn.put(Table::Meta, table::history_key(self.site(), lane), history.encode().into());
        }
        let range = u64::from(incarnation.0).saturating_mul(FILES_OF_INCARNATION);
        let next_file = range.max(txn.next_file().saturating_add(FILES_OF_INCARNATION));
        txn.open_incarnation(histories, next_file);
        // What is made from now on has positions and file ids of its own.
        txn.delete(Table::Meta, Bytes::from_static(meta::TAIL_LOST));
        txn.commit_state()?;
        self.tail_lost.store(false, Ordering::SeqCst);
        // What was noted while this site could make no records is answered before it acknowledges anything.
        self.answer_noted();
        tracing::info!(incarnation = incarnation.0, "opened a new incarnation");
        Ok(incarnation)
    }

    /// Another site has told the histories of its lanes. What is older than what is known, or of another copy of its store, is not taken.
    /// Frontiers move over openings at which nothing is missing here. None of the site's records may be replayed meanwhile.
    pub fn note_histories(&self, origin: SiteId, told: &Histories) -> Result<(), FsError> {
        let is_news = |lane: Lane| {
            let (told, known) = (&told[lane as usize], self.history_of(origin, lane));
            told.current() > known.current() && told.agrees(&known)
        };
        if origin == self.site() || !Lane::ALL.into_iter().any(is_news) {
            return Ok(());
        }
        let mut txn = Txn::begin(self)?;
        for lane in Lane::ALL.into_iter().filter(|lane| is_news(*lane)) {
            let history = &told[lane as usize];
            txn.put(Table::Meta, table::history_key(origin, lane), history.encode().into());
            let key = table::lane_key(origin, lane);
            let Some(row) = txn.get(Table::Frontier, &key)? else { continue };
            let frontier = Frontier::decode(origin, lane, row)?;
            let point = history.settle(frontier.point);
            // By another number it is not the same record.
            let hlc = if point.seq == frontier.point.seq { frontier.hlc } else { Hlc(0) };
            txn.put(Table::Frontier, key, Frontier { point, hlc, ..frontier }.encode());
        }
        let news: Vec<Lane> = Lane::ALL.into_iter().filter(|lane| is_news(*lane)).collect();
        // Nobody sees the frontier without the history that it belongs to.
        let mut others = self.incarnations.others.write();
        txn.commit_state()?;
        others.extend(news.into_iter().map(|lane| ((origin, lane), told[lane as usize].clone())));
        Ok(())
    }

    /// Whether a record, this site's or another's, is part of this site's state.
    pub(crate) fn covers(&self, position: Position) -> bool {
        let Position { site, lane, .. } = position;
        let at = if site == self.site() { self.own_point(lane) } else { self.frontier(site, lane) };
        self.covers_at(at, position)
    }

    /// Whether who has come as far as `at` in the lane of a record has that record.
    pub(crate) fn covers_at(&self, at: LanePoint, position: Position) -> bool {
        let Position { site, lane, .. } = position;
        if site == self.site() {
            return self.incarnations.own.read()[lane as usize].covers(at, position.point());
        }
        match self.incarnations.others.read().get(&(site, lane)) {
            // The end of one incarnation may be the beginning of the next, as which others know it.
            Some(history) => history.covers(history.settle(at), position.point()),
            None => position.point() <= at,
        }
    }

    /// The clock reading of an own record; `None` when it is not in the journal, or no longer.
    pub fn record_clock(&self, lane: Lane, seq: Seq) -> Result<Option<Hlc>, FsError> {
        if seq == Seq::ZERO {
            return Ok(None);
        }
        let batches = match self.journal.read_lane(lane, Seq(seq.0 - 1), 1, ReadEnd::Appended) {
            Ok(batches) => batches,
            Err(error) => match crate::ship::read_error(error, lane, seq) {
                ReadLaneError::Truncated { .. } => return Ok(None),
                ReadLaneError::Fs(error) => return Err(error),
            },
        };
        let Some(batch) = batches.into_iter().next() else { return Ok(None) };
        let mut reader = Reader::new(batch.records);
        while reader.remaining() > 0 {
            let record = Record::decode(&mut reader)?;
            if record.seq == seq {
                return Ok(Some(record.hlc));
            }
        }
        Ok(None)
    }

    /// Reads the histories from the tables.
    pub(crate) fn load_histories(&self) -> Result<(), FsError> {
        let mut own = Histories::default();
        let mut others = self.incarnations.others.write();
        for (key, row) in self.rows.scan(Table::Meta, table::HISTORY, None, usize::MAX)? {
            let (site, lane) = table::lane_of_key(&key[table::HISTORY.len()..])?;
            let history = LaneHistory::decode(row)?;
            if site == self.site() {
                own[lane as usize] = history;
            } else {
                others.insert((site, lane), history);
            }
        }
        self.incarnations.set_own(own);
        Ok(())
    }

    /// Opens an incarnation if recovery is going to make records of its own.
    pub(crate) fn begin_before_recovery(&self, power_lost: bool) -> Result<(), FsError> {
        let answers = !self.rows.scan(Table::Repair, b"", None, 1)?.is_empty();
        if power_lost || self.tail_is_lost() || answers || self.has_mapped_files()? {
            self.begin_incarnation(self.incarnation(), &Default::default())?;
        }
        Ok(())
    }
}
