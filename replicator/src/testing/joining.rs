//! A store in memory that a join fills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fs::error::FsError;
use fs::peers::Member;
use fs::volume::OpenError;
use parking_lot::Mutex;
use proto::codec::Reader;
use proto::hlc::Hlc;
use proto::ids::{Incarnation, Lane, LanePoint, Seq, SiteId, VolumeId};

use super::memory::MemoryStore;
use crate::store::{NewStore, Store};

/// A store that a join fills; where it ends is found by its directory.
pub struct Joining(Arc<MemoryStore>);

static JOINED: Mutex<BTreeMap<PathBuf, Arc<MemoryStore>>> = Mutex::new(BTreeMap::new());

impl Joining {
    /// The store that a join made in the directory.
    pub fn take(dir: &Path) -> Option<Arc<MemoryStore>> {
        JOINED.lock().remove(dir)
    }
}

impl NewStore for Joining {
    fn create(dir: &Path, volume: VolumeId, site: SiteId) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir).expect("a directory");
        std::fs::write(dir.join("meta"), b"partial").expect("a file");
        Ok(Self(Arc::new(MemoryStore::new(dir, volume, site))))
    }
    fn load(&mut self, chunk: &Bytes) -> Result<(), FsError> {
        let mut reader = Reader::new(chunk.clone());
        let damaged = |error: proto::codec::DecodeError| FsError::Damaged(error.to_string());
        let site = SiteId(reader.uint("a site").map_err(damaged)?);
        let lane = Lane::from_u8(reader.uint("a lane").map_err(damaged)?).ok_or(FsError::Invalid("a lane"))?;
        let seq = reader.u64("a number").map_err(damaged)?;
        let mut inner = self.0.inner.lock();
        let point = LanePoint { incarnation: Incarnation(1), seq: Seq(seq) };
        inner.applied.frontiers.insert((site, lane), (point, Hlc(0)));
        inner.applied.log.insert((site, lane), (1..=seq).collect());
        *self.0.durable.lock() = inner.applied.clone();
        Ok(())
    }
    fn finish(self, members: &[Member]) -> Result<(), FsError> {
        members.iter().try_for_each(|member| self.0.put_member(member))?;
        JOINED.lock().insert(self.0.dir.clone(), self.0);
        Ok(())
    }
    fn abandon(self) {}
}
