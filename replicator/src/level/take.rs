//! This site takes a peer's state.

use std::sync::Arc;
use std::time::Duration;

use fs::error::FsError;
use proto::grpc::{self, LevelFrame, LevelRequest, level_frame, level_request};
use proto::history::Histories;
use proto::ids::{FileId, Incarnation, Lane, SiteId};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::told::Told;
use super::{FRAME_LIMIT, MAX_WANTED, Progress, open_fresh};
use crate::channel::Channel;
use crate::clock;
use crate::engine::Fault;
use crate::frames::{self, FrameError};
use crate::hub::Hub;
use crate::membership::MAX_MEMBERS;
use crate::store::{Store, TakesState};
use crate::transport::client::{self, LevelLink};
use crate::transport::{Frames, LinkError};

/// How long the peer's streams may take to end what they are at.
const TURN_LIMIT: Duration = Duration::from_secs(30);

/// Why a peer's state was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It can't be reached, or the connection broke.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It doesn't answer.
    #[error("it sent nothing for {FRAME_LIMIT:?}")]
    Silent,
    /// Its streams don't end.
    #[error("its streams have not ended within {TURN_LIMIT:?}")]
    Busy,
    /// It is no member.
    #[error("the site is not a member any more")]
    NotMember,
    /// Two copies of this site's store were at work.
    #[error(transparent)]
    Diverged(Fault),
    /// A frame that makes no sense here.
    #[error("it sent {0}")]
    Unexpected(&'static str),
    /// A frame that no site sends.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The store can't take it in.
    #[error(transparent)]
    Store(#[from] FsError),
}

/// Takes the state of a peer. `lost_tail` is what it told that this site lacks.
pub async fn take<S: Store>(hub: &Arc<Hub<S>>, from: SiteId, lost_tail: Option<Arc<Told>>) -> Result<(), TakeError> {
    if let Some(told) = lost_tail {
        let judged = move |hub: &Hub<S>| {
            open_fresh(hub, told.known())?;
            // What was made until the opening was may have positions that the peer knows.
            told.judge(hub, &Lane::ALL)
        };
        if let Some(fault) = hub.blocking(judged).await?.diverged {
            hub.store.stop_writing(&fault.to_string());
            return Err(TakeError::Diverged(fault));
        }
    }
    let address = hub.state().membership.get(from).map(|member| member.address.clone()).ok_or(TakeError::NotMember)?;
    let since_ms = clock::wall_ms();
    hub.level.set_progress(Some(Progress { from, since_ms, chunks: 0, files: 0, bytes: 0 }));
    let mut turns = Vec::new();
    for channel in Channel::ALL {
        // None of its records is replayed until the end.
        turns.push(hub.take_turn(from, channel, TURN_LIMIT).await.ok_or(TakeError::Busy)?);
    }
    let name = hub.server_name(from);
    let begin = level_request::Frame::Begin(grpc::LevelBegin {
        protocol_version: grpc::PROTOCOL_VERSION,
        volume: hub.local.volume.0.to_vec().into(),
    });
    let begin = LevelRequest { frame: Some(begin) };
    let connecting = client::level(&address, &name, &hub.local.credentials, begin);
    let LevelLink { requests, frames } = timeout(FRAME_LIMIT, connecting).await.map_err(|_| TakeError::Silent)??;
    let store = hub.store.clone();
    let level = hub.blocking(move |_| store.begin_level(from)).await?;
    let taking = Taking { hub: hub.clone(), requests, frames, level: Some(level) };
    let lsn = taking.run().await?;
    for mut turn in turns {
        // The next stream waits until it is durable.
        *turn.undurable = turn.undurable.max(Some(lsn));
    }
    Ok(())
}

struct Taking<S> {
    hub: Arc<Hub<S>>,
    /// Dropped at the end: the peer is done then.
    requests: mpsc::Sender<LevelRequest>,
    frames: Frames<LevelFrame>,
    /// Away while a thread works with it.
    level: Option<Box<dyn TakesState>>,
}

impl<S: Store> Taking<S> {
    async fn run(mut self) -> Result<fs::journal::Lsn, TakeError> {
        let level_frame::Frame::Known(known) = self.next().await? else {
            return Err(TakeError::Unexpected("something else than what it knows of the sites"));
        };
        let known = read_known(&known)?;
        let mut chunks = 0;
        loop {
            match self.next().await? {
                level_frame::Frame::State(chunk) => {
                    chunks += 1;
                    self.hub.level.advance(|progress| {
                        progress.chunks = chunks;
                        progress.bytes += chunk.len() as u64;
                    });
                    self.with(move |level| level.take(&chunk)).await?;
                }
                level_frame::Frame::StateEnd(count) if count == chunks => break,
                level_frame::Frame::StateEnd(_) => return Err(TakeError::Unexpected("a state that is not whole")),
                _ => return Err(TakeError::Unexpected("something else than its state")),
            }
        }
        loop {
            let wanted = self.with(|level| level.wanted()).await?;
            if wanted.is_empty() {
                break;
            }
            for files in wanted.chunks(MAX_WANTED) {
                self.fetch(files).await?;
            }
        }
        self.conclude(known).await
    }

    async fn fetch(&mut self, files: &[FileId]) -> Result<(), TakeError> {
        let wanted = grpc::LevelWanted { files: files.iter().map(|file| file.0).collect() };
        let request = LevelRequest { frame: Some(level_request::Frame::Wanted(wanted)) };
        let sent = timeout(FRAME_LIMIT, self.requests.send(request)).await.map_err(|_| TakeError::Silent)?;
        sent.map_err(|_| TakeError::Unexpected("the end of the connection"))?;
        let mut chunks = 0;
        loop {
            match self.next().await? {
                level_frame::Frame::Content(chunk) => {
                    chunks += 1;
                    self.hub.level.advance(|progress| progress.bytes += chunk.len() as u64);
                    self.with(move |level| level.take_content(&chunk)).await?;
                }
                level_frame::Frame::ContentEnd(count) if count == chunks => break,
                level_frame::Frame::ContentEnd(_) => return Err(TakeError::Unexpected("content that is not whole")),
                _ => return Err(TakeError::Unexpected("something else than content")),
            }
        }
        self.hub.level.advance(|progress| progress.files += files.len() as u64);
        Ok(())
    }

    /// Its state becomes this site's, and the histories say so.
    async fn conclude(mut self, known: Vec<(SiteId, Histories)>) -> Result<fs::journal::Lsn, TakeError> {
        let hub = self.hub.clone();
        let _levelled = hub.levelled.write().await;
        let level = self.level.take().ok_or(TakeError::Unexpected("the end of the connection"))?;
        let conclude = move |hub: &Hub<S>| -> Result<fs::journal::Lsn, FsError> {
            let own = hub.local.site;
            for (site, histories) in known.iter().filter(|(site, _)| *site != own) {
                // Before the frontiers rise to points of incarnations that nobody here knows.
                hub.store.note_histories(*site, histories)?;
            }
            let levelled = level.finish()?;
            let theirs = known.into_iter().find(|(site, _)| *site == own).map(|(_, histories)| histories);
            let theirs = theirs.unwrap_or_default();
            let had = Lane::ALL.map(|lane| theirs[lane as usize].had_at(levelled.own[lane as usize]));
            let ours = hub.store.own_histories();
            let heads = hub.refresh_heads();
            let lost = |lane: Lane| {
                let head = heads[lane as usize].appended;
                ours[lane as usize].lacks(levelled.own[lane as usize], head)
            };
            if Lane::ALL.into_iter().any(lost) {
                let at = levelled.own.iter().map(|point| point.incarnation);
                let above = at.chain(theirs.iter().map(|history| history.current())).max();
                let opened = hub.store.begin_incarnation(above.unwrap_or(Incarnation(1)), &had)?;
                hub.level.set_opened(opened);
            }
            hub.store.wait_durable(levelled.lsn)?;
            hub.refresh_frontiers()?;
            Ok(levelled.lsn)
        };
        Ok(hub.blocking(conclude).await?)
    }

    /// Works with what is being taken in, where that may block.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn TakesState) -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, TakeError> {
        let mut level = self.level.take().ok_or(TakeError::Unexpected("the end of the connection"))?;
        let work = move |_: &Hub<S>| {
            let result = work(&mut *level);
            (level, result)
        };
        let (level, result) = self.hub.blocking(work).await;
        self.level = Some(level);
        Ok(result?)
    }

    async fn next(&mut self) -> Result<level_frame::Frame, TakeError> {
        let next = timeout(FRAME_LIMIT, self.frames.next()).await.map_err(|_| TakeError::Silent)??;
        let frame = next.ok_or(TakeError::Unexpected("the end of its answer too early"))?.frame;
        frame.ok_or(TakeError::Unexpected("a frame that this version does not know"))
    }
}

fn read_known(known: &grpc::LevelKnown) -> Result<Vec<(SiteId, Histories)>, FrameError> {
    if known.sites.len() > MAX_MEMBERS + 1 {
        return Err(FrameError { what: "too many histories" });
    }
    let read = |site: &grpc::SiteHistories| {
        let id = u16::try_from(site.site).map_err(|_| FrameError { what: "a site id" })?;
        Ok((SiteId(id), frames::histories(&site.histories)?))
    };
    known.sites.iter().map(read).collect()
}
