//! How a store in memory takes another's state: frontiers and changes as chunks, and one file whose content is wanted.

use std::sync::Arc;

use bytes::Bytes;
use fs::error::FsError;
use fs::journal::Lsn;
use fs::level::Levelled;
use proto::codec::{self, DecodeError, Reader};
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Seq, SiteId};

use super::memory::{MemoryStore, Seen};
use crate::store::{Chunks, Store, TakesState};

/// ```text
/// chunk := kind:u8 site:uint lane:u8 incarnation:uint seq:uint hlc:uint       0 frontier, 1 change
/// ```
fn chunk(kind: u8, site: SiteId, lane: Lane, point: LanePoint, hlc: Hlc) -> Result<Bytes, FsError> {
    let mut chunk = vec![kind];
    for value in [u64::from(site.0), lane as u64, u64::from(point.incarnation.0), point.seq.0, hlc.0] {
        codec::put_u64(&mut chunk, value);
    }
    Ok(chunk.into())
}

pub fn state(store: &MemoryStore) -> Chunks {
    let inner = store.inner.lock();
    let own = Lane::ALL.map(|lane| {
        let incarnation = inner.histories[lane as usize].current();
        chunk(0, store.site, lane, LanePoint { incarnation, seq: inner.head(lane) }, Hlc(0))
    });
    let frontiers = inner.applied.frontiers.iter();
    let frontiers = frontiers.map(|((site, lane), (point, hlc))| chunk(0, *site, *lane, *point, *hlc));
    let seen = inner.applied.seen.iter().map(|((site, lane, point), hlc)| chunk(1, *site, *lane, *point, *hlc));
    let all: Vec<_> = own.into_iter().chain(frontiers).chain(seen).collect();
    Box::new(all.into_iter())
}

pub fn content(file: FileId) -> Chunks {
    let chunk = move |_| Ok(Bytes::copy_from_slice(&file.0.to_be_bytes()));
    Box::new((0..3).map(chunk))
}

pub struct Taking {
    store: Arc<MemoryStore>,
    frontiers: Vec<(SiteId, Lane, LanePoint)>,
    seen: Seen,
    content: u32,
    asked: bool,
}

impl Taking {
    pub fn new(store: Arc<MemoryStore>) -> Self {
        Self { store, frontiers: Vec::new(), seen: Seen::new(), content: 0, asked: false }
    }

    fn read(&mut self, chunk: &Bytes) -> Result<(), DecodeError> {
        let mut reader = Reader::new(chunk.clone());
        let kind = reader.u8("a kind")?;
        let site = SiteId(reader.uint("a site")?);
        let lane = Lane::from_u8(reader.u8("a lane")?).ok_or(DecodeError::Invalid { what: "a lane" })?;
        let point = LanePoint { incarnation: Incarnation(reader.uint("a number")?), seq: Seq(reader.u64("a number")?) };
        let hlc = Hlc(reader.u64("a clock reading")?);
        if kind == 0 {
            self.frontiers.push((site, lane, point));
        } else {
            self.seen.insert((site, lane, point), hlc);
        }
        Ok(())
    }
}

impl TakesState for Taking {
    fn take(&mut self, chunk: &Bytes) -> Result<(), FsError> {
        if self.store.inner.lock().level_breaks() {
            return Err(FsError::Invalid("a test breaks it"));
        }
        self.read(chunk).map_err(|error| FsError::Damaged(error.to_string()))
    }

    fn wanted(&mut self) -> Result<Vec<FileId>, FsError> {
        let asked = std::mem::replace(&mut self.asked, true);
        Ok(if asked { Vec::new() } else { vec![FileId::ROOT] })
    }

    fn take_content(&mut self, _chunk: &Bytes) -> Result<(), FsError> {
        self.content += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Levelled, FsError> {
        assert_eq!(self.content, 3, "content that was wanted did not come");
        let own_site = self.store.site();
        let mut inner = self.store.inner.lock();
        let mut own = [LanePoint::START; Lane::ALL.len()];
        for ((site, lane, point), hlc) in self.seen {
            inner.see(site, lane, point, hlc);
        }
        for (site, lane, point) in self.frontiers {
            if site == own_site {
                own[lane as usize] = point;
            } else if point > inner.frontier((site, lane)) {
                inner.applied.frontiers.insert((site, lane), (point, Hlc(0)));
            }
        }
        Ok(Levelled { own, lsn: Lsn(inner.add_batch()) })
    }
}
