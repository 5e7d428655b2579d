//! Sealed segments of this site's lanes. Each is read, compressed and sealed once; every peer that stands at the same place gets
//! the same bytes.
//!
//! The cache is bounded; a peer that is far behind reads segments of its own, which push out only the oldest. Peers at
//! different places never wait for each other's reads.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fs::ship::ReadLaneError;
use parking_lot::Mutex;
use proto::ids::{Incarnation, Lane, Seq, SiteId, VolumeId};
use proto::record::Record;
use proto::seal::{SealError, Sealer, SealingSalt, VolumeKey};
use proto::segment::{BuildError, PlainSegment, TARGET_SEGMENT_BYTES};

use crate::store::Store;

/// What the cache holds at most, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// A segment as it is sent.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The lane.
    pub lane: Lane,
    /// Its first record.
    pub first: Seq,
    /// Its last record.
    pub last: Seq,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Why there is no segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The journal can't give the records.
    #[error(transparent)]
    Read(#[from] ReadLaneError),
    /// The records can't be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// They can't be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// One place's segment; its lock is held while it is made, so that a second peer there waits instead of making it again.
type Slot = Arc<Mutex<Option<Sealed>>>;

#[derive(Default)]
struct Cache {
    slots: HashMap<(Lane, Seq), Slot>,
    /// Places and lengths of the segments that are there, the oldest first.
    order: VecDeque<((Lane, Seq), usize)>,
    bytes: usize,
}

/// The segments of one site, for one run of its daemon.
pub struct Segments<S> {
    store: Arc<S>,
    volume: VolumeId,
    site: SiteId,
    sealer: Mutex<Sealer>,
    cache: Mutex<Cache>,
}

impl<S: Store> Segments<S> {
    /// `salt` must be fresh from the operating system.
    pub fn new(store: Arc<S>, key: &VolumeKey, salt: SealingSalt) -> Self {
        let (volume, site) = (store.volume_id(), store.site());
        let sealer = Mutex::new(Sealer::new(key, volume, site, salt));
        Self { store, volume, site, sealer, cache: Mutex::default() }
    }

    /// The segment that follows on `after`, or `None` if no durable record does. Blocks.
    pub fn after(&self, lane: Lane, after: Seq) -> Result<Option<Sealed>, SegmentError> {
        let place = (lane, after);
        let slot = self.cache.lock().slots.entry(place).or_default().clone();
        let mut held = slot.lock();
        if let Some(sealed) = &*held {
            return Ok(Some(sealed.clone()));
        }
        let made = self.make(lane, after);
        let mut cache = self.cache.lock();
        match &made {
            Ok(Some(sealed)) => {
                *held = Some(sealed.clone());
                cache.order.push_back((place, sealed.bytes.len()));
                cache.bytes += sealed.bytes.len();
                while cache.bytes > CACHE_BYTES {
                    let Some((oldest, bytes)) = cache.order.pop_front() else { break };
                    cache.slots.remove(&oldest);
                    cache.bytes -= bytes;
                }
            }
            _ => drop(cache.slots.remove(&place)),
        }
        made
    }

    fn make(&self, lane: Lane, after: Seq) -> Result<Option<Sealed>, SegmentError> {
        let read = self.store.read_lane(lane, after, TARGET_SEGMENT_BYTES)?;
        let Some(incarnation) = read.first().map(|read| read.incarnation) else { return Ok(None) };
        // A segment has records of one incarnation.
        let read = read.into_iter().take_while(|read| read.incarnation == incarnation);
        let records: Vec<Record> = read.map(|read| read.record).collect();
        let plain = match self.build(incarnation, lane, &records) {
            Err(BuildError::TooLarge { fitting }) if fitting > 0 => {
                self.build(incarnation, lane, &records[..fitting])?
            }
            built => built?,
        };
        let run = plain.run();
        let bytes = self.sealer.lock().seal(plain)?;
        Ok(Some(Sealed { lane, first: run.first, last: run.last, bytes }))
    }

    fn build(&self, incarnation: Incarnation, lane: Lane, records: &[Record]) -> Result<PlainSegment, BuildError> {
        PlainSegment::build(self.volume, self.site, incarnation, lane, records)
    }
}
