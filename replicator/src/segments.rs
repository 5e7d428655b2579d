//! Sealed segments of this site's lanes. Each is read, compressed and sealed once; every peer that stands at the same place, and needs the bytes of
//! copies or does not, gets the same bytes. The two kinds at one place are two segments, each sealed with a nonce of its own.
//!
//! The cache is bounded; a peer that is far behind reads segments of its own, which push out only the oldest. Peers at
//! different places never wait for each other's reads.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fs::policy::Compress;
use fs::ship::{Copies, ReadLaneError};
use parking_lot::Mutex;
use proto::ids::{Incarnation, Lane, Seq, SiteId, VolumeId};
use proto::record::Record;
use proto::seal::{SealError, Sealer, SealingSalt, VolumeKey};
use proto::segment::{BuildError, Compression, PlainSegment, TARGET_SEGMENT_BYTES};

use crate::channel::Channel;
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

type Key = (Lane, Seq, Copies);

/// One place's segment; its lock is held while it is made, so that a second peer there waits instead of making it again.
type Slot = Arc<Mutex<Option<Sealed>>>;

#[derive(Default)]
struct Cache {
    slots: HashMap<Key, Slot>,
    /// Places and lengths of the segments that are there, the oldest first.
    order: VecDeque<(Key, usize)>,
    bytes: usize,
}

/// The segments of one site, for one run of its daemon.
pub struct Segments<S> {
    store: Arc<S>,
    volume: VolumeId,
    site: SiteId,
    /// By channel: the sync lane waits for no other one's megabyte.
    sealers: [Mutex<Sealer>; Channel::ALL.len()],
    cache: Mutex<Cache>,
}

impl<S: Store> Segments<S> {
    /// The salts, one for each channel, must be fresh from the operating system.
    pub fn new(store: Arc<S>, key: &VolumeKey, salts: [SealingSalt; Channel::ALL.len()]) -> Self {
        let (volume, site) = (store.volume_id(), store.site());
        let sealers = salts.map(|salt| Mutex::new(Sealer::new(key, volume, site, salt)));
        Self { store, volume, site, sealers, cache: Mutex::default() }
    }

    /// The segment that follows on `after`, or `None` if no durable record does. Blocks.
    pub fn after(&self, lane: Lane, after: Seq, copies: Copies) -> Result<Option<Sealed>, SegmentError> {
        let place = (lane, after, copies);
        let slot = self.cache.lock().slots.entry(place).or_default().clone();
        let mut held = slot.lock();
        if let Some(sealed) = &*held {
            return Ok(Some(sealed.clone()));
        }
        let made = self.make(lane, after, copies);
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

    fn make(&self, lane: Lane, after: Seq, copies: Copies) -> Result<Option<Sealed>, SegmentError> {
        let read = self.store.read_lane(lane, after, TARGET_SEGMENT_BYTES, copies)?;
        let Some(incarnation) = read.first().map(|read| read.incarnation) else { return Ok(None) };
        // A segment has records of one incarnation.
        let read = &read[..read.partition_point(|read| read.incarnation == incarnation)];
        let compression = compression(read.iter().map(|read| (carried_bytes(&read.record), read.compress)));
        let records: Vec<Record> = read.iter().map(|read| read.record.clone()).collect();
        let plain = match self.build(incarnation, lane, &records, compression) {
            Err(BuildError::TooLarge { fitting }) if fitting > 0 => {
                self.build(incarnation, lane, &records[..fitting], compression)?
            }
            built => built?,
        };
        let run = plain.run();
        let bytes = self.sealers[Channel::of(lane) as usize].lock().seal(plain)?;
        Ok(Some(Sealed { lane, first: run.first, last: run.last, bytes }))
    }

    fn build(
        &self,
        incarnation: Incarnation,
        lane: Lane,
        records: &[Record],
        compression: Compression,
    ) -> Result<PlainSegment, BuildError> {
        PlainSegment::build(self.volume, self.site, incarnation, lane, records, compression)
    }
}

fn carried_bytes(record: &Record) -> u64 {
    record.bytes().map_or(0, |bytes| bytes.len() as u64)
}

/// A segment is compressed whole or not at all: as the policies say of more than half of its content, by bytes; else where it helps.
fn compression(content: impl Iterator<Item = (u64, Compress)>) -> Compression {
    let (mut all, mut on, mut off) = (0, 0, 0);
    for (bytes, compress) in content {
        all += bytes;
        match compress {
            Compress::Auto => {}
            Compress::On => on += bytes,
            Compress::Off => off += bytes,
        }
    }
    match () {
        () if off > all / 2 => Compression::Never,
        () if on > all / 2 => Compression::Always,
        () => Compression::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_most_bytes_holds_for_the_segment() {
        let of = |content: &[(u64, Compress)]| compression(content.iter().copied());
        assert_eq!(of(&[]), Compression::Auto);
        assert_eq!(of(&[(0, Compress::Off)]), Compression::Auto, "no content");
        assert_eq!(of(&[(51, Compress::Off), (49, Compress::On)]), Compression::Never);
        assert_eq!(of(&[(30, Compress::Off), (70, Compress::On), (10, Compress::Auto)]), Compression::Always);
        assert_eq!(of(&[(50, Compress::Off), (50, Compress::On)]), Compression::Auto);
        assert_eq!(of(&[(50, Compress::Off), (51, Compress::Auto)]), Compression::Auto);
    }
}
