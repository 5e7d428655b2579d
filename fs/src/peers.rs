//! What this site keeps about the others: who they are, how far their lanes have come here, and how far ours have come there.

use proto::codec::{self, DecodeError, Reader};
use proto::hlc::Hlc;
use proto::ids::{Lane, LanePoint, Seq, SiteId};

use crate::error::FsError;
use crate::store::table::{self, Table};
use crate::txn::Txn;
use crate::volume::{Volume, decode_point, encode_point};

/// Another site of the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The site.
    pub site: SiteId,
    /// Its name.
    pub name: String,
    /// Where it listens: `host:port`.
    pub address: String,
}

/// One lane of one origin, and the last position applied here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontier {
    /// The origin.
    pub origin: SiteId,
    /// The lane.
    pub lane: Lane,
    /// The last position.
    pub point: LanePoint,
    /// The clock reading of the record there, by which its origin knows it again; 0 when it came as state.
    pub hlc: Hlc,
}

/// Extents to one batch.
const RELEASE_BATCH: usize = 256;

impl Volume {
    /// Every frontier of every other origin.
    pub fn frontiers(&self) -> Result<Vec<Frontier>, FsError> {
        let rows = self.rows.scan(Table::Frontier, b"", None, usize::MAX)?;
        let frontier = |(key, row): (table::Key, table::Value)| {
            let (origin, lane) = table::lane_of_key(&key)?;
            Frontier::decode(origin, lane, row)
        };
        rows.into_iter().map(frontier).collect()
    }

    /// The other sites.
    pub fn members(&self) -> Result<Vec<Member>, FsError> {
        let rows = self.rows.scan(Table::Member, b"", None, usize::MAX)?;
        rows.into_iter().map(|(key, row)| Ok(Member::decode(&key, row)?)).collect()
    }

    /// Adds or changes a site, durably.
    pub fn put_member(&self, member: &Member) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        txn.put(Table::Member, Member::key(member.site), member.encode());
        let committed = txn.commit_state()?;
        self.refresh_members()?;
        self.wait_durable(committed.appended.lsn)
    }

    /// Takes a site away, durably.
    pub fn remove_member(&self, site: SiteId) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        txn.delete(Table::Member, Member::key(site));
        let committed = txn.commit_state()?;
        self.acknowledged.forget(site);
        self.refresh_members()?;
        self.wait_durable(committed.appended.lsn)
    }

    /// Remembers what a peer has acknowledged of our lane. It may be behind after a crash: the peer says again what it has.
    pub fn set_acknowledged(&self, peer: SiteId, lane: Lane, point: LanePoint) -> Result<(), FsError> {
        if self.acknowledged(peer, lane)? == Some(point) {
            return Ok(());
        }
        let mut txn = Txn::begin(self)?;
        txn.put(Table::Acknowledged, table::lane_key(peer, lane), encode_point(point));
        txn.commit_state().map(drop)
    }

    /// What the peer has acknowledged of our lane, as far as remembered.
    pub fn acknowledged(&self, peer: SiteId, lane: Lane) -> Result<Option<LanePoint>, FsError> {
        let row = self.rows.get(Table::Acknowledged, &table::lane_key(peer, lane))?;
        Ok(row.map(decode_point).transpose()?)
    }

    /// Every peer that must have them has all records of our lane up to here: the journal may drop them, and the bytes in objects that they refer to
    /// may be overwritten without a copy.
    pub fn set_watermark(&self, lane: Lane, seq: Seq) {
        self.journal.set_watermark(lane, seq);
        if let Err(error) = self.release_pins(lane, seq) {
            tracing::warn!(%lane, %error, "bytes of acknowledged records are still copied when overwritten");
        }
    }

    fn release_pins(&self, lane: Lane, seq: Seq) -> Result<(), FsError> {
        loop {
            let records = self.pins.lock().up_to(lane, seq, RELEASE_BATCH);
            if records.is_empty() {
                return Ok(());
            }
            let mut txn = Txn::begin(self)?;
            for seq in &records {
                let key = table::extent_key(lane, *seq);
                for (saved, _) in txn.scan(Table::Saved, &key, usize::MAX)? {
                    txn.delete(Table::Saved, saved);
                }
                txn.delete(Table::Extent, key);
            }
            txn.commit_state()?;
            let mut pins = self.pins.lock();
            let free = records.iter().filter_map(|seq| pins.release(lane, *seq)).collect();
            drop(pins);
            self.reclaim_if_gone(free);
        }
    }
}

impl Frontier {
    /// ```text
    /// frontier := incarnation:u32 seq:u64 [hlc:u64]
    /// ```
    pub(crate) fn encode(&self) -> table::Value {
        let mut out = encode_point(self.point).to_vec();
        out.extend_from_slice(&self.hlc.0.to_be_bytes());
        out.into()
    }

    pub(crate) fn decode(origin: SiteId, lane: Lane, row: table::Value) -> Result<Self, FsError> {
        const WHAT: &str = "a frontier";
        let hlc = row.get(12..).filter(|hlc| !hlc.is_empty()).map(|hlc| table::read_u64(hlc, WHAT)).transpose()?;
        Ok(Self { origin, lane, point: decode_point(row)?, hlc: Hlc(hlc.unwrap_or_default()) })
    }
}

impl Member {
    fn key(site: SiteId) -> table::Key {
        bytes::Bytes::copy_from_slice(&site.0.to_be_bytes())
    }

    /// ```text
    /// member := name:bytes address:bytes
    /// ```
    fn encode(&self) -> table::Value {
        let mut out = Vec::new();
        codec::put_bytes(&mut out, self.name.as_bytes());
        codec::put_bytes(&mut out, self.address.as_bytes());
        out.into()
    }

    fn decode(key: &[u8], row: table::Value) -> Result<Self, DecodeError> {
        const WHAT: &str = "a member";
        let [high, low] = key else { return Err(DecodeError::Short { what: WHAT }) };
        let mut reader = Reader::new(row);
        let mut text = || {
            let bytes = reader.bytes(1 << 10, WHAT)?;
            String::from_utf8(bytes.into()).map_err(|_| DecodeError::Invalid { what: WHAT })
        };
        let (name, address) = (text()?, text()?);
        reader.finish(WHAT)?;
        Ok(Self { site: SiteId(u16::from_be_bytes([*high, *low])), name, address })
    }
}
