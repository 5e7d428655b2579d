//! Sites in one process, over real TLS, with stores in memory.

pub mod address;
pub mod joining;
pub mod level;
pub mod link;
pub mod memory;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fs::peers::Member;
use proto::ids::{SiteId, VolumeId};
use proto::seal::VolumeKey;
use tempfile::TempDir;

use crate::clock;
use crate::config::Config;
use crate::identity::certificate::{Authority, SiteKey};
use crate::identity::site_identity::{Parts, Profile, SiteIdentity};
use crate::replicator::Replicator;
use crate::store::Store;
use address::free_address;
use link::Link;
use memory::MemoryStore;

pub const VOLUME: VolumeId = VolumeId([7; 16]);
pub const NAMES: [&str; 4] = ["", "alpha", "beta", "gamma"];

/// Waits until the condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub struct Site {
    pub id: SiteId,
    pub store: Arc<MemoryStore>,
    pub link: Link,
    pub listen: SocketAddr,
    pub dir: PathBuf,
    pub window_bytes: u64,
    replicator: Option<Replicator<MemoryStore>>,
}

impl Site {
    pub async fn start(&mut self) {
        let identity = SiteIdentity::load(&self.dir).expect("an identity");
        let config = Config {
            replay_retry: Duration::from_millis(50),
            window_bytes: self.window_bytes,
            ..Config::new(self.listen)
        };
        let started = Replicator::start(self.store.clone(), identity, config).await;
        self.replicator = Some(started.expect("it starts"));
    }

    pub async fn stop(&mut self) {
        if let Some(replicator) = self.replicator.take() {
            replicator.shutdown(Duration::from_secs(10)).await;
        }
    }

    pub fn replicator(&self) -> &Replicator<MemoryStore> {
        self.replicator.as_ref().expect("it runs")
    }
}

pub struct Sites {
    pub sites: Vec<Site>,
    pub root: TempDir,
    authority_key: String,
    authority: crate::identity::certificate::Certificate,
}

impl Sites {
    /// So many sites that know each other, not started.
    pub async fn new(count: u16) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let authority = Authority::generate(VOLUME, clock::wall_ms() / 1000).expect("an authority");
        let mut sites = Sites {
            sites: Vec::new(),
            root,
            authority_key: authority.key_pem().to_string(),
            authority: authority.certificate().clone(),
        };
        for id in 1..=count {
            let (listen, dir) = (free_address(), sites.root.path().join(NAMES[usize::from(id)]));
            let link = Link::to(listen).await;
            std::fs::create_dir(&dir).expect("a directory");
            let address = link.address.to_string();
            sites.identity(SiteId(id), NAMES[usize::from(id)], &address).save(&dir).expect("saved");
            let store = Arc::new(MemoryStore::new(&dir, VOLUME, SiteId(id)));
            sites.sites.push(Site {
                id: SiteId(id),
                store,
                link,
                listen,
                dir,
                window_bytes: 32 << 20,
                replicator: None,
            });
        }
        for site in &sites.sites {
            for other in sites.sites.iter().filter(|other| other.id != site.id) {
                let name = NAMES[usize::from(other.id.0)].to_string();
                let member = Member { site: other.id, name, address: other.link.address.to_string() };
                site.store.put_member(&member).expect("stored");
            }
        }
        sites
    }

    pub async fn started(count: u16) -> Self {
        let mut sites = Self::new(count).await;
        for site in &mut sites.sites {
            site.start().await;
        }
        sites
    }

    /// An identity of any site of the volume.
    pub fn identity(&self, site: SiteId, name: &str, address: &str) -> SiteIdentity {
        let authority = Authority::from_pem(self.authority.clone(), &self.authority_key).expect("an authority");
        let key = SiteKey::generate().expect("a key");
        let request = key.request().expect("a request");
        let certificate = authority.sign(&request, site, clock::wall_ms() / 1000).expect("a certificate");
        let profile = Profile {
            volume: VOLUME,
            volume_name: "data".to_string(),
            site,
            site_name: name.to_string(),
            listen_address: address.to_string(),
            advertised_address: address.to_string(),
        };
        let volume_key = VolumeKey::from_bytes([9; 32]);
        let authority_certificate = self.authority.clone();
        let parts = Parts { profile, authority_certificate, authority: Some(authority), certificate, key, volume_key };
        SiteIdentity::new(parts).expect("it belongs together")
    }

    /// Takes in a site that has joined, with the port that it was to listen at.
    pub fn add_joined(&mut self, store: Arc<MemoryStore>, listen: SocketAddr, link: Link) {
        let (id, dir) = (store.site(), store.store_path().expect("a directory"));
        self.sites.push(Site { id, store, link, listen, dir, window_bytes: 32 << 20, replicator: None });
    }

    pub async fn stop(&mut self) {
        for site in &mut self.sites {
            site.stop().await;
        }
    }
}
