//! Joining, over the network: what a token lets in, and what is left when it goes wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proto::ids::{Lane, SiteId};

use crate::clock;
use crate::identity::site_identity::SiteIdentity;
use crate::join::enter::{JoinError, JoinProgress, JoinRequest, join};
use crate::testing::address::free_address;
use crate::testing::joining::Joining;
use crate::testing::link::Link;
use crate::testing::{Sites, until};

const LANE: Lane = Lane::Normal;
const TTL: Duration = Duration::from_secs(600);

struct Newcomer {
    request: JoinRequest,
    listen: SocketAddr,
    link: Link,
    admitted: Option<SiteId>,
}

impl Newcomer {
    async fn new(sites: &Sites, name: &str, token: &str) -> Self {
        let listen = free_address();
        let link = Link::to(listen).await;
        let request = JoinRequest {
            token: token.to_string(),
            site_name: name.to_string(),
            store: sites.root.path().join(format!("joined-{name}")),
            listen: listen.to_string(),
            advertise: link.address.to_string(),
        };
        Self { request, listen, link, admitted: None }
    }

    async fn join(&mut self) -> Result<SiteIdentity, JoinError> {
        let admitted = &mut self.admitted;
        let progress = |progress| {
            if let JoinProgress::Admitted { site } = progress {
                *admitted = Some(site);
            }
        };
        join::<Joining>(self.request.clone(), progress).await
    }

    fn store(&self) -> PathBuf {
        self.request.store.clone()
    }
}

async fn invite(sites: &Sites, at: usize) -> String {
    let now_secs = clock::wall_ms() / 1000;
    sites.sites[at].replicator().invite(now_secs, TTL).await.expect("a token").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_joins_while_the_others_write_and_lacks_nothing() {
    let mut sites = Sites::started(2).await;
    for site in &sites.sites {
        site.store.write(LANE, 100, 1_000);
    }
    // Alpha's records are acknowledged by beta and dropped; the newcomer gets them with beta's copy.
    until("beta's acknowledgement is there", || sites.sites[0].store.watermark(LANE).0 == 100).await;
    let token = invite(&sites, 1).await;
    let mut gamma = Newcomer::new(&sites, "gamma", &token).await;
    let writer = sites.sites[0].store.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let writing = tokio::task::spawn_blocking(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            writer.write(LANE, 5, 1_000);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let identity = gamma.join().await.expect("it joins");
    assert_eq!(identity.profile().site, SiteId(3));
    assert_eq!(identity.profile().volume_name, "data");
    let store = Joining::take(&gamma.store()).expect("a store");
    let copied = store.log(SiteId(1), LANE).len() as u64;

    // It is not there yet: nothing that it lacks is dropped, neither at the inviter nor at the other site.
    until("alpha learns of it", || sites.sites[0].replicator().members().len() == 3).await;
    let written = sites.sites[0].store.write(LANE, 1, 10);
    until("beta has more", || sites.sites[1].store.log(SiteId(1), LANE).len() as u64 >= written.0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(sites.sites[0].store.watermark(LANE).0 <= copied, "{:?} > {copied}", sites.sites[0].store.watermark(LANE));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.await.expect("the writer ends");

    sites.add_joined(store, gamma.listen, gamma.link);
    sites.sites[2].start().await;
    sites.sites[2].store.write(LANE, 20, 10);
    for site in &sites.sites {
        let last = crate::store::Store::lane_head(&*site.store, LANE).durable;
        let limit = Duration::from_secs(30);
        site.replicator().wait_applied(&[(LANE, last)], None, limit).await.expect("level");
        for other in sites.sites.iter().filter(|other| other.id != site.id) {
            assert_eq!(other.store.log(site.id, LANE), (1..=last.0).collect::<Vec<u64>>());
        }
        until("the watermark follows", || site.store.watermark(LANE) == last).await;
    }
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_in_once() {
    let mut sites = Sites::started(1).await;
    let token = invite(&sites, 0).await;
    let mut beta = Newcomer::new(&sites, "beta", &token).await;
    beta.join().await.expect("it joins");
    let mut gamma = Newcomer::new(&sites, "gamma", &token).await;
    let refused = gamma.join().await.expect_err("the token was used");
    assert!(refused.to_string().contains("used already"), "{refused}");
    assert!(!gamma.store().exists());
    assert_eq!(sites.sites[0].replicator().members().len(), 2);
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_and_one_of_another_volume_let_nobody_in() {
    let mut sites = Sites::started(1).await;
    let long_ago = clock::wall_ms() / 1000 - 1_000;
    let replicator = sites.sites[0].replicator();
    let expired = replicator.invite(long_ago, Duration::from_secs(10)).await.expect("a token").to_string();
    let mut beta = Newcomer::new(&sites, "beta", &expired).await;
    let refused = beta.join().await.expect_err("it expired");
    assert!(refused.to_string().contains("expired"), "{refused}");

    // The member decides, whatever the newcomer's clock says: a token that it never gave out.
    let other = Sites::started(1).await;
    let foreign = invite(&other, 0).await;
    let mut token = crate::identity::token::JoinToken::decode(&foreign).expect("a token");
    token.addresses = vec![sites.sites[0].listen.to_string()];
    let foreign = token.encode().expect("a token").to_string();
    let mut beta = Newcomer::new(&sites, "beta", &foreign).await;
    let refused = beta.join().await.expect_err("another authority");
    assert!(matches!(refused, JoinError::Link(_)), "{refused}");
    assert_eq!(sites.sites[0].replicator().members().len(), 1);
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_join_leaves_nothing_and_the_next_attempt_gets_the_same_id() {
    let mut sites = Sites::started(1).await;
    sites.sites[0].store.write(LANE, 10, 10);
    sites.sites[0].store.write(Lane::Bulk, 10, 10);
    sites.sites[0].store.fail_snapshot_after(Some(1));
    let token = invite(&sites, 0).await;
    let mut beta = Newcomer::new(&sites, "beta", &token).await;
    let failed = beta.join().await.expect_err("the copy breaks");
    assert!(failed.to_string().contains("can't read its state"), "{failed}");
    assert_eq!(beta.admitted, Some(SiteId(2)));
    assert!(!beta.store().exists(), "what was written is removed");

    sites.sites[0].store.fail_snapshot_after(None);
    beta.request.token = invite(&sites, 0).await;
    std::fs::create_dir(beta.store()).expect("an empty directory is as good as none");
    let identity = beta.join().await.expect("it joins");
    assert_eq!(identity.profile().site, SiteId(2));
    let store = Joining::take(&beta.store()).expect("a store");
    sites.add_joined(store, beta.listen, beta.link);
    sites.sites[1].start().await;
    let last = sites.sites[0].store.write(LANE, 1, 10);
    let waited = sites.sites[0].replicator().wait_applied(&[(LANE, last)], Some("beta"), Duration::from_secs(30)).await;
    waited.expect("level");

    // A name that a living site has is not given out again.
    let token = invite(&sites, 0).await;
    let mut again = Newcomer::new(&sites, "beta", &token).await;
    again.request.store = sites.root.path().join("again");
    let refused = again.join().await.expect_err("the name is in use");
    assert!(refused.to_string().contains("has a site named \"beta\""), "{refused}");
    sites.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_with_something_in_it_is_left_alone() {
    let mut sites = Sites::started(1).await;
    let token = invite(&sites, 0).await;
    let mut beta = Newcomer::new(&sites, "beta", &token).await;
    std::fs::create_dir(beta.store()).expect("a directory");
    std::fs::write(beta.store().join("precious"), b"data").expect("a file");
    assert!(matches!(beta.join().await, Err(JoinError::NotEmpty(_))));
    assert!(beta.store().join("precious").exists());
    std::fs::remove_file(beta.store().join("precious")).expect("removed");
    beta.join().await.expect("the token is not used up");
    sites.stop().await;
}
