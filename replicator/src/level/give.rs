//! A peer takes this site's state.
//!
//! Runs on a thread that may block; memory is bounded by the channels. Every wait has a limit, so a peer that is gone holds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fs::error::FsError;
use fs::level::Chunks;
use proto::grpc::{self, LevelFrame, LevelRequest, level_frame, level_request};
use proto::history::Histories;
use proto::ids::{FileId, SiteId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{FRAME_LIMIT, MAX_WANTED};
use crate::frames;
use crate::hub::Hub;
use crate::store::Store;
use crate::transport::Frames;

/// Chunks that wait to be sent.
pub const CHUNKS: usize = 4;

/// Answers one peer that levels from this site, in the background.
pub fn give<S: Store>(
    hub: Arc<Hub<S>>,
    peer: SiteId,
    requests: Frames<LevelRequest>,
    frames: mpsc::Sender<Result<LevelFrame, String>>,
) {
    tokio::task::spawn_blocking(move || {
        let name = hub.name_of(peer);
        tracing::info!(peer = name, "the peer takes this site's state");
        let failing = frames.clone();
        let giver = Giver { hub, requests, frames, runtime: Handle::current() };
        match giver.run() {
            Ok(()) => tracing::info!(peer = name, "the peer has this site's state"),
            Err(error) => {
                tracing::warn!(peer = name, "the peer did not take this site's state whole: {error}");
                let _ = failing.try_send(Err(error));
            }
        }
    });
}

struct Giver<S> {
    hub: Arc<Hub<S>>,
    requests: Frames<LevelRequest>,
    frames: mpsc::Sender<Result<LevelFrame, String>>,
    runtime: Handle,
}

impl<S: Store> Giver<S> {
    fn run(mut self) -> Result<(), String> {
        let Some(level_request::Frame::Begin(begin)) = self.next()? else {
            return Err("it did not begin with a greeting".to_string());
        };
        if begin.protocol_version != grpc::PROTOCOL_VERSION || begin.volume[..] != self.hub.local.volume.0 {
            return Err("it is of another volume or speaks another version of the protocol".to_string());
        }
        let (known, state) = self.begin().map_err(unreadable)?;
        self.send(level_frame::Frame::Known(known))?;
        let count = self.send_all(state, level_frame::Frame::State)?;
        self.send(level_frame::Frame::StateEnd(count))?;
        while let Some(frame) = self.next()? {
            let level_request::Frame::Wanted(wanted) = frame else { return Err("it greeted twice".to_string()) };
            if wanted.files.len() > MAX_WANTED {
                return Err(format!("it wants more than {MAX_WANTED} files at once"));
            }
            let mut count = 0;
            for file in wanted.files {
                let content = self.hub.store.clone().content(FileId(file)).map_err(unreadable)?;
                count += self.send_all(content, level_frame::Frame::Content)?;
            }
            self.send(level_frame::Frame::ContentEnd(count))?;
        }
        Ok(())
    }

    /// The state of one instant, and histories at least as new.
    fn begin(&self) -> Result<(grpc::LevelKnown, Chunks), FsError> {
        let _levelled = self.runtime.block_on(self.hub.levelled.read());
        let state = self.hub.store.clone().state()?;
        let mut sites: BTreeMap<SiteId, Histories> = BTreeMap::new();
        for (site, lane, history) in self.hub.store.known_histories() {
            sites.entry(site).or_default()[lane as usize] = history;
        }
        let put = |(site, histories): (&SiteId, &Histories)| grpc::SiteHistories {
            site: site.0.into(),
            histories: frames::put_histories(histories),
        };
        Ok((grpc::LevelKnown { sites: sites.iter().map(put).collect() }, state))
    }

    fn send_all(&self, chunks: Chunks, frame: impl Fn(Bytes) -> level_frame::Frame) -> Result<u64, String> {
        let mut count = 0;
        for chunk in chunks {
            self.send(frame(chunk.map_err(unreadable)?))?;
            count += 1;
        }
        Ok(count)
    }

    fn send(&self, frame: level_frame::Frame) -> Result<(), String> {
        if *self.hub.stop.borrow() {
            return Err("this site is shutting down".to_string());
        }
        let frame = LevelFrame { frame: Some(frame) };
        match self.runtime.block_on(async { timeout(FRAME_LIMIT, self.frames.send(Ok(frame))).await }) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the connection ended".to_string()),
            Err(_) => Err(format!("it took nothing for {FRAME_LIMIT:?}")),
        }
    }

    /// The peer's next frame; `None` when it has all.
    fn next(&mut self) -> Result<Option<level_request::Frame>, String> {
        let mut stop = self.hub.stop.subscribe();
        let next = async {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Err("this site is shutting down".to_string()),
                next = timeout(FRAME_LIMIT, self.requests.next()) => match next {
                    Ok(next) => next.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("it said nothing for {FRAME_LIMIT:?}")),
                },
            }
        };
        let Some(request) = self.runtime.block_on(next)? else { return Ok(None) };
        request.frame.map(Some).ok_or_else(|| "it sent a frame that this version does not know".to_string())
    }
}

fn unreadable(error: FsError) -> String {
    format!("this site's state can't be read: {error}")
}
