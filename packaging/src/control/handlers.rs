//! What the daemon answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fs::fuse::UnmountError;
use proto::ids::FileId;

use super::report::Report;
use super::server::Service;
use super::{MAX_WAIT, Reply, Request};
use crate::busy;
use crate::daemon::Site;

impl Service for Site {
    async fn answer(self: Arc<Self>, request: Request) -> Reply {
        match request {
            Request::Ping => Reply::Pong { pid: std::process::id() },
            Request::Status => status(self).await,
            Request::Wait { peer, timeout_ms } => {
                wait(self, peer, Duration::from_millis(timeout_ms).min(MAX_WAIT)).await
            }
            Request::Invite { valid_ms } => match self.peers.invite(Duration::from_millis(valid_ms)).await {
                Ok(token) => Reply::Invited { token },
                Err(error) => failed(error),
            },
            Request::Unmount => match self.unmount().await {
                Ok(()) => Reply::Unmounted,
                Err(UnmountError::Busy(point)) => Reply::Busy { users: busy::describe(&point, std::process::id()) },
                Err(error) => failed(error),
            },
        }
    }
}

fn failed(error: impl ToString) -> Reply {
    Reply::Failed { message: error.to_string() }
}

async fn status(site: Arc<Site>) -> Reply {
    let peers = match site.peers.report().await {
        Ok(peers) => peers,
        Err(error) => return failed(error),
    };
    let session = site.session.info();
    let report = Report {
        volume: site.config.volume.clone(),
        site: site.config.site.clone(),
        site_id: site.volume.site().0,
        mountpoint: session.mount_point.display().to_string(),
        store: site.config.store.display().to_string(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: site.started.elapsed().as_secs(),
        mode: if session.passthrough { "passthrough" } else { "cached" }.to_owned(),
        stopped: site.volume.stopped(),
        journal_bytes: directory_bytes(&site.config.store.join("journal")),
        peers,
    };
    Reply::Status { report: Box::new(report) }
}

/// What the files of a directory take on the disk. The journal has few; one that goes meanwhile takes nothing.
fn directory_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(files) = std::fs::read_dir(path) else { return 0 };
    files.flatten().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// Everything that was changed so far is made durable first: only that is sent.
async fn wait(site: Arc<Site>, peer: Option<String>, limit: Duration) -> Reply {
    let flushing = site.clone();
    match tokio::task::spawn_blocking(move || flushing.volume.fsyncdir(FileId::ROOT)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return failed(error),
        Err(error) => return failed(error),
    }
    match site.peers.wait(peer.as_deref(), limit).await {
        Ok(outcome) => Reply::Waited { outcome },
        Err(error) => failed(error),
    }
}
