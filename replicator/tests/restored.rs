//! An older copy of a site's store comes back under its peers: real volumes, real streams.

#[path = "../src/testing/address.rs"]
mod address;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs::types::{Caller, OpenFlags};
use fs::volume::{Volume, VolumeOptions};
use proto::ids::{FileId, Incarnation, Lane, Seq, SiteId};
use proto::record::{Kind, Perms};
use proto::seal::VolumeKey;
use replicator::identity::random;
use replicator::identity::site_identity::{Profile, SiteIdentity};
use replicator::{Config, JoinRequest, Replicator, join};
use tempfile::TempDir;

const CALLER: Caller = Caller { uid: 0, gid: 0 };
const LIMIT: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

fn now_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

struct Site {
    store: PathBuf,
    address: SocketAddr,
    running: Option<(Arc<Volume>, Replicator)>,
}

impl Site {
    fn new(root: &Path, name: &str) -> Self {
        Self { store: root.join(name), address: address::free_address(), running: None }
    }

    fn found(&self) {
        let profile = Profile {
            volume: random::volume_id().expect("random"),
            volume_name: "data".into(),
            site: SiteId(1),
            site_name: NAMES[0].into(),
            listen_address: self.address.to_string(),
            advertised_address: self.address.to_string(),
        };
        let root = Perms { mode: 0o755, uid: 0, gid: 0 };
        Volume::format(&self.store, profile.volume, profile.site, root).expect("formatted");
        let key = VolumeKey::from_bytes(random::bytes().expect("random"));
        let identity = SiteIdentity::found(profile, key, now_secs()).expect("founded");
        identity.save(&self.store).expect("saved");
    }

    /// As the daemon does: programs may write when this returns.
    async fn start(&mut self) {
        let volume = Volume::start(&self.store, VolumeOptions::default()).expect("it opens");
        let identity = SiteIdentity::load(&self.store).expect("an identity");
        let config = Config::new(self.address);
        let replicator = Replicator::start(volume.clone(), identity, config).await.expect("it starts");
        replicator.settle_tail(Duration::from_secs(5)).await.expect("settled");
        self.running = Some((volume, replicator));
    }

    async fn stop(&mut self) {
        let (volume, replicator) = self.running.take().expect("it runs");
        replicator.shutdown(LIMIT).await;
        volume.close().expect("closed");
    }

    fn volume(&self) -> &Arc<Volume> {
        &self.running.as_ref().expect("it runs").0
    }

    fn replicator(&self) -> &Replicator {
        &self.running.as_ref().expect("it runs").1
    }

    /// A copy of the store, made while nobody uses it.
    async fn copy(&mut self) -> TempDir {
        self.stop().await;
        let copy = tempfile::tempdir().expect("a directory");
        copy_dir(&self.store, copy.path());
        self.start().await;
        copy
    }

    fn restore(&self, copy: &TempDir) {
        std::fs::remove_dir_all(&self.store).expect("removed");
        std::fs::create_dir(&self.store).expect("a directory");
        copy_dir(copy.path(), &self.store);
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            std::fs::create_dir_all(&target).expect("a directory");
            // Keys are private.
            let permissions = entry.metadata().expect("its mode").permissions();
            std::fs::set_permissions(&target, permissions).expect("set");
            copy_dir(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// So many sites that have joined, with something from each.
async fn sites(root: &Path, count: usize) -> Vec<Site> {
    let mut sites: Vec<Site> = NAMES[..count].iter().map(|name| Site::new(root, name)).collect();
    sites[0].found();
    sites[0].start().await;
    for index in 1..count {
        let token = sites[0].replicator().invite(now_secs(), LIMIT).await.expect("a token");
        let request = JoinRequest {
            token: token.to_string(),
            site_name: NAMES[index].into(),
            store: sites[index].store.clone(),
            listen: sites[index].address.to_string(),
            advertise: sites[index].address.to_string(),
        };
        join::<Arc<Volume>>(request, |_| ()).await.expect("it joins");
        sites[index].start().await;
    }
    for (index, site) in sites.iter().enumerate() {
        write(site.volume(), &format!("first-{index}"), 10);
    }
    equal(&sites).await;
    sites
}

fn write(volume: &Volume, dir: &str, files: u32) {
    let parent = volume.create(CALLER, FileId::ROOT, dir.as_bytes(), Kind::Directory, 0o755).expect("a directory").file;
    let flags = OpenFlags { read: true, write: true, append: false, truncate: false, sync: false };
    for index in 0..files {
        let name = format!("file-{index}");
        let (_, handle) = volume.create_open(CALLER, parent, name.as_bytes(), 0o644, flags).expect("a file");
        // Some by value, some by extent.
        let bytes = vec![index as u8; if index % 3 == 0 { 200_000 } else { 3_000 }];
        volume.write(handle, 0, &bytes, false).expect("written");
        volume.release(handle).expect("released");
    }
}

fn remove(volume: &Volume, dir: &str, file: &str) {
    let parent = volume.lookup(FileId::ROOT, dir.as_bytes()).expect("a directory").file;
    volume.unlink(parent, file.as_bytes()).expect("removed");
}

/// Every name below the root with its file id and content.
fn tree(volume: &Volume) -> Vec<(String, FileId, Vec<u8>)> {
    let mut found = Vec::new();
    for dir in volume.list(FileId::ROOT).expect("the root") {
        for file in volume.list(dir.file).expect("a directory") {
            let flags = OpenFlags { read: true, write: false, append: false, truncate: false, sync: false };
            let Ok(handle) = volume.open(file.file, flags) else { continue };
            let bytes = volume.read(handle, 0, 1 << 20).expect("its content");
            volume.release(handle).expect("released");
            found.push((format!("{:?}/{:?}", dir.name, file.name), file.file, bytes));
        }
    }
    found.sort();
    found
}

/// All have the same, know so, and go on.
async fn equal(sites: &[Site]) {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let mut is_level = true;
        for site in sites {
            assert_eq!(site.volume().stopped(), None);
            let targets: Vec<(Lane, Seq)> =
                Lane::ALL.map(|lane| (lane, site.volume().lane_head(lane).appended)).to_vec();
            let limit = Duration::from_millis(200);
            is_level &= site.replicator().wait_applied(&targets, None, limit).await.is_ok();
        }
        let trees: Vec<_> = sites.iter().map(|site| tree(site.volume())).collect();
        if is_level && trees.iter().all(|tree| *tree == trees[0]) {
            return;
        }
        if std::time::Instant::now() > deadline {
            for site in sites {
                eprintln!("{:#?}", site.replicator().status().await);
            }
            let names = |tree: &Vec<(String, FileId, Vec<u8>)>| -> Vec<String> {
                tree.iter().map(|(name, file, bytes)| format!("{name} {file} {}", bytes.len())).collect()
            };
            panic!("not level, or not equal: {:#?}", trees.iter().map(names).collect::<Vec<_>>());
        }
    }
}

async fn stop(mut sites: Vec<Site>) {
    for site in &mut sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_gets_back_what_it_lost_and_goes_on() {
    let root = tempfile::tempdir().expect("a directory");
    let mut sites = sites(root.path(), 2).await;
    let older = sites[0].copy().await;
    let kept = sites[0].volume().lane_head(Lane::Normal).appended;
    write(sites[0].volume(), "lost", 20);
    remove(sites[0].volume(), "first-0", "file-1");
    write(sites[1].volume(), "meanwhile", 10);
    equal(&sites).await;
    let whole = tree(sites[1].volume());

    sites[0].stop().await;
    sites[0].restore(&older);
    sites[0].start().await;
    assert!(sites[0].volume().lane_head(Lane::Normal).appended >= kept);
    equal(&sites).await;
    assert_eq!(tree(sites[0].volume()), whole);
    assert!(sites[0].volume().incarnation() > Incarnation(1));
    let status = sites[0].replicator().status().await;
    assert_eq!((status.incarnation, status.levelling.is_none()), (sites[0].volume().incarnation().0, true));

    for round in 0..2 {
        write(sites[0].volume(), &format!("after-{round}"), 10);
        write(sites[1].volume(), &format!("there-{round}"), 10);
        remove(sites[1].volume(), "lost", &format!("file-{round}"));
        equal(&sites).await;
        sites[0].stop().await;
        sites[0].start().await;
    }
    stop(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_that_finds_nobody_writes_and_is_made_level_with_all_later() {
    let root = tempfile::tempdir().expect("a directory");
    let mut sites = sites(root.path(), 3).await;
    let older = sites[0].copy().await;
    write(sites[0].volume(), "lost", 10);
    equal(&sites).await;
    // Gamma does not get the last of it.
    sites[2].stop().await;
    write(sites[0].volume(), "lost-to-beta", 10);
    let target = sites[0].volume().lane_head(Lane::Normal).appended;
    let waited = sites[0].replicator().wait_applied(&[(Lane::Normal, target)], Some(NAMES[1]), LIMIT).await;
    waited.expect("beta has it");
    sites[1].stop().await;
    sites[0].stop().await;

    sites[0].restore(&older);
    sites[0].start().await;
    assert!(sites[0].volume().incarnation() > Incarnation(1), "nobody could be asked");
    write(sites[0].volume(), "alone", 10);
    remove(sites[0].volume(), "first-1", "file-2");
    sites[2].start().await;
    write(sites[2].volume(), "gamma", 5);
    sites[1].start().await;
    write(sites[1].volume(), "beta", 5);
    equal(&sites).await;
    let names: Vec<String> = tree(sites[0].volume()).into_iter().map(|(name, ..)| name).collect();
    for dir in ["lost", "lost-to-beta", "alone", "gamma", "beta"] {
        assert!(names.iter().any(|name| name.starts_with(&format!("{dir}/"))), "{dir} is gone: {names:?}");
    }
    write(sites[0].volume(), "at-last", 5);
    equal(&sites).await;
    stop(sites).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_site_that_only_read_takes_what_the_others_have_dropped() {
    let root = tempfile::tempdir().expect("a directory");
    let mut sites = sites(root.path(), 2).await;
    let older = sites[1].copy().await;
    for round in 0..3 {
        write(sites[0].volume(), &format!("more-{round}"), 10);
        write(sites[1].volume(), &format!("own-{round}"), 5);
    }
    equal(&sites).await;
    let whole = tree(sites[0].volume());
    sites[1].stop().await;
    sites[1].restore(&older);
    sites[1].start().await;
    equal(&sites).await;
    assert_eq!(tree(sites[1].volume()), whole);
    stop(sites).await;
}
