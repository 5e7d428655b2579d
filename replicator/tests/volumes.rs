//! Two volumes on disks, joined and level: the replicator on the real store.

#[path = "../src/testing/address.rs"]
mod address;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use address::free_address;
use fs::types::{Caller, OpenFlags};
use fs::volume::{Volume, VolumeOptions};
use proto::ids::{FileId, Lane, Seq, SiteId};
use proto::record::{Kind, Perms};
use proto::seal::VolumeKey;
use replicator::identity::random;
use replicator::identity::site_identity::{Profile, SiteIdentity};
use replicator::{Config, JoinRequest, Replicator, join};

const CALLER: Caller = Caller { uid: 0, gid: 0 };
const LIMIT: Duration = Duration::from_secs(60);

fn now_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn found(store: &Path, address: SocketAddr) -> SiteIdentity {
    let profile = Profile {
        volume: random::volume_id().expect("random"),
        volume_name: "data".into(),
        site: SiteId(1),
        site_name: "alpha".into(),
        listen_address: address.to_string(),
        advertised_address: address.to_string(),
    };
    let root = Perms { mode: 0o755, uid: 0, gid: 0 };
    Volume::format(store, profile.volume, profile.site, root).expect("formatted");
    let key = VolumeKey::from_bytes(random::bytes().expect("random"));
    let identity = SiteIdentity::found(profile, key, now_secs()).expect("founded");
    identity.save(store).expect("saved");
    identity
}

async fn start(store: &Path, address: SocketAddr) -> (Arc<Volume>, Replicator) {
    let volume = Volume::start(store, VolumeOptions::default()).expect("it opens");
    let identity = SiteIdentity::load(store).expect("an identity");
    let replicator = Replicator::start(volume.clone(), identity, Config::new(address)).await.expect("it starts");
    (volume, replicator)
}

fn write(volume: &Volume, dir: &str, files: u32) {
    let parent = volume.create(CALLER, FileId::ROOT, dir.as_bytes(), Kind::Directory, 0o755).expect("a directory").file;
    let flags = OpenFlags { read: true, write: true, append: false, truncate: false, sync: false };
    for index in 0..files {
        let name = format!("file-{index}");
        let (_, handle) = volume.create_open(CALLER, parent, name.as_bytes(), 0o644, flags).expect("a file");
        let bytes = vec![index as u8; 5_000 + index as usize];
        volume.write(handle, 0, &bytes, false).expect("written");
        volume.release(handle).expect("released");
    }
}

/// Every name below the root with its content.
fn tree(volume: &Volume) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for dir in volume.list(FileId::ROOT).expect("the root") {
        for file in volume.list(dir.file).expect("a directory") {
            let flags = OpenFlags { read: true, write: false, append: false, truncate: false, sync: false };
            let handle = volume.open(file.file, flags).expect("a file");
            let bytes = volume.read(handle, 0, 1 << 20).expect("its content");
            volume.release(handle).expect("released");
            found.push((format!("{:?}/{:?}", dir.name, file.name), bytes));
        }
    }
    found.sort();
    found
}

async fn level(volume: &Volume, replicator: &Replicator) {
    let targets: Vec<(Lane, Seq)> = Lane::ALL.map(|lane| (lane, volume.lane_head(lane).appended)).to_vec();
    replicator.wait_applied(&targets, None, LIMIT).await.expect("level");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_joined_by_a_second_site_and_both_become_equal() {
    let root = tempfile::tempdir().expect("a directory");
    let (alpha_store, beta_store) = (root.path().join("alpha"), root.path().join("beta"));
    let (alpha_address, beta_address) = (free_address(), free_address());
    found(&alpha_store, alpha_address);
    let (alpha, alpha_replicator) = start(&alpha_store, alpha_address).await;
    write(&alpha, "before", 50);

    let token = alpha_replicator.invite(now_secs(), LIMIT).await.expect("a token");
    let request = JoinRequest {
        token: token.to_string(),
        site_name: "beta".into(),
        store: beta_store.clone(),
        listen: beta_address.to_string(),
        advertise: beta_address.to_string(),
    };
    join::<Arc<Volume>>(request, |_| ()).await.expect("it joins");
    write(&alpha, "between", 50);
    let (beta, beta_replicator) = start(&beta_store, beta_address).await;
    write(&alpha, "after", 50);
    write(&beta, "there", 50);
    level(&alpha, &alpha_replicator).await;
    level(&beta, &beta_replicator).await;
    assert_eq!(tree(&alpha).len(), 200);
    assert_eq!(tree(&alpha), tree(&beta));

    // Both go on after an orderly end, from where they were.
    beta_replicator.shutdown(LIMIT).await;
    beta.close().expect("closed");
    drop(beta);
    write(&alpha, "meanwhile", 50);
    let (beta, beta_replicator) = start(&beta_store, beta_address).await;
    level(&alpha, &alpha_replicator).await;
    assert_eq!(tree(&alpha).len(), 250);
    assert_eq!(tree(&alpha), tree(&beta));
    beta_replicator.shutdown(LIMIT).await;
    alpha_replicator.shutdown(LIMIT).await;
    beta.close().expect("closed");
    alpha.close().expect("closed");
}
