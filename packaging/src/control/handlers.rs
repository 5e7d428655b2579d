//! What the daemon answers.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fs::fuse::UnmountError;

use super::report::{FlowReport, Report};
use super::server::{Service, Tell};
use super::{FlowChange, MAX_WAIT, Reply, Request};
use crate::busy;
use crate::daemon::Site;
use crate::lanes::LaneName;
use crate::metrics::{self, server::Source};
use crate::peers::{PeersError, waiting};

impl Service for Site {
    async fn answer(self: Arc<Self>, request: Request, tell: Tell) -> Reply {
        match request {
            Request::Ping => Reply::Pong { pid: std::process::id() },
            Request::Status => match self.report().await {
                Ok(report) => Reply::Status { report: Box::new(report) },
                Err(error) => failed(error),
            },
            Request::Wait { path, peer, lane, timeout_ms } => {
                let wait = Wait { path: PathBuf::from(OsString::from_vec(path)), peer, lane };
                wait.answer(self, Duration::from_millis(timeout_ms).min(MAX_WAIT), tell).await
            }
            Request::Invite { valid_ms } => match self.peers.invite(Duration::from_millis(valid_ms)).await {
                Ok(token) => Reply::Invited { token },
                Err(error) => failed(error),
            },
            Request::Flow { peer, lane, change } => match flow(&self, peer.as_deref(), lane.as_deref(), change).await {
                Ok(flows) => Reply::Flow { flows },
                Err(message) => Reply::Failed { message },
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

impl Site {
    /// How it is, and how far the peers are.
    pub async fn report(&self) -> Result<Report, PeersError> {
        let (peers, levelling) = self.peers.report().await?;
        let session = self.session.info();
        Ok(Report {
            volume: self.config.volume.clone(),
            site: self.config.site.clone(),
            site_id: self.volume.site().0,
            incarnation: self.volume.incarnation().0,
            mountpoint: session.mount_point.display().to_string(),
            store: self.config.store.display().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            mode: if session.passthrough { "passthrough" } else { "cached" }.to_owned(),
            stopped: self.volume.stopped(),
            journal_bytes: self.volume.journal_bytes(),
            levelling,
            peers,
            sync_directories: self.peers.sync_directories().await?,
        })
    }
}

impl Source for Site {
    async fn metrics(&self) -> Result<String, String> {
        let report = self.report().await.map_err(|error| error.to_string())?;
        metrics::render(&report).map_err(|error| error.to_string())
    }
}

async fn flow(
    site: &Site,
    peer: Option<&str>,
    lane: Option<&str>,
    change: Option<FlowChange>,
) -> Result<Vec<FlowReport>, String> {
    let lane = lane.map(str::parse::<LaneName>).transpose().map_err(|error| error.to_string())?;
    if let Some(change) = change {
        tracing::info!(
            ?change,
            peer,
            lane = lane.map(|lane| lane.0.name()),
            "the flow of changes to other sites was changed"
        );
    }
    site.peers.flow(peer, lane.map(|lane| lane.0), change).await.map_err(|error| error.to_string())
}

/// What a caller waits for.
struct Wait {
    path: PathBuf,
    peer: Option<String>,
    lane: Option<String>,
}

impl Wait {
    async fn answer(self, site: Arc<Site>, limit: Duration, tell: Tell) -> Reply {
        let lane = match self.lane.as_deref().map(str::parse::<LaneName>).transpose() {
            Ok(lane) => lane.map(|lane| lane.0),
            Err(error) => return failed(error),
        };
        let (volume, path) = (site.volume.clone(), self.path.clone());
        let targets = match tokio::task::spawn_blocking(move || waiting::targets(&volume, &path, lane)).await {
            Ok(Ok(targets)) => targets,
            Ok(Err(error)) => return failed(format_args!("{}: {error}", self.path.display())),
            Err(error) => return failed(error),
        };
        let tell = |outcome| tell.tell(Reply::Waiting { outcome });
        match site.peers.wait(&targets, self.peer.as_deref(), limit, tell).await {
            Ok(outcome) => Reply::Waited { outcome },
            Err(error) => failed(error),
        }
    }
}
