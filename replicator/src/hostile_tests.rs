//! Clients that are not sites, or sites that misbehave: refused with a reason, and nothing of theirs is applied.

use std::time::Duration;

use bytes::Bytes;
use proto::grpc::{self, AckFrame, ShipFrame, ack_frame, ship_frame};
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, Seq, SiteId, VolumeId};
use proto::record::{Op, Record, Time};
use proto::seal::{Sealer, SealingSalt, VolumeKey};
use proto::segment::{Compression, PlainSegment};

use crate::clock;
use crate::identity::certificate::server_name;
use crate::identity::site_identity::{Profile, SiteIdentity};
use crate::testing::{Sites, VOLUME};
use crate::transport::Credentials;
use crate::transport::client::{self, ShipLink};

const BETA: SiteId = SiteId(2);

fn hello() -> grpc::Hello {
    let member = |site: u32, name: &str| grpc::MemberInfo { site, name: name.into(), address: "127.0.0.1:9".into() };
    grpc::Hello {
        protocol_version: grpc::PROTOCOL_VERSION,
        volume: VOLUME.0.to_vec().into(),
        site: 2,
        histories: crate::frames::put_histories(&Default::default()),
        software_version: "test".into(),
        clock: Hlc::from_ms(clock::wall_ms()).0,
        members: Some(grpc::Members { members: vec![member(2, "beta")] }),
        heads: vec![],
        lanes: vec![1, 2, 3],
    }
}

/// A volume of two sites, of which only the first runs; the test speaks for the second.
struct Victim(Sites);

impl Victim {
    async fn new() -> Self {
        let mut sites = Sites::new(2).await;
        sites.sites[0].start().await;
        Self(sites)
    }

    fn credentials(&self) -> Credentials {
        Credentials::of(&self.0.identity(BETA, "beta", "127.0.0.1:9"))
    }

    async fn greet(&self, hello: grpc::Hello) -> ShipLink {
        let address = self.0.sites[0].listen.to_string();
        let frame = ShipFrame { frame: Some(ship_frame::Frame::Hello(hello)) };
        let name = server_name(VOLUME, SiteId(1));
        client::ship(&address, &name, &self.credentials(), frame, 16).await.expect("TLS is in order")
    }

    async fn refusal(&self, hello: grpc::Hello) -> String {
        refusal(&mut self.greet(hello).await).await
    }

    /// What the victim says to a segment after a good greeting.
    async fn refusal_of_segment(&self, sealed: Bytes) -> String {
        let mut link = self.greet(hello()).await;
        assert!(matches!(next(&mut link).await, ack_frame::Frame::Welcome(_)));
        let frame =
            ShipFrame { frame: Some(ship_frame::Frame::Segment(grpc::Segment { sealed, lane: 2, more: false })) };
        link.frames.send(frame).await.expect("open");
        let reason = refusal(&mut link).await;
        assert!(self.0.sites[0].store.log(BETA, Lane::Normal).is_empty(), "something was applied");
        reason
    }
}

async fn next(link: &mut ShipLink) -> ack_frame::Frame {
    let frame = tokio::time::timeout(Duration::from_secs(20), link.acks.next()).await.expect("in time");
    let AckFrame { frame } = frame.expect("the connection stands").expect("a frame");
    frame.expect("a frame")
}

async fn refusal(link: &mut ShipLink) -> String {
    loop {
        match next(link).await {
            ack_frame::Frame::Refused(refused) => return refused.reason,
            ack_frame::Frame::Ack(ack) => panic!("acknowledged: {ack:?}"),
            _ => {}
        }
    }
}

fn segment(key: u8, origin: SiteId, seqs: std::ops::RangeInclusive<u64>) -> Bytes {
    let op =
        Op::SetXattr { file: FileId::ROOT, name: Bytes::from_static(b"user.x"), value: None, time: Time::default() };
    let record = |seq| Record { seq: Seq(seq), hlc: Hlc::from_ms(1), deps: vec![], op: op.clone() };
    let records: Vec<Record> = seqs.map(record).collect();
    let plain =
        PlainSegment::build(VOLUME, origin, Incarnation(1), Lane::Normal, &records, Compression::Auto).expect("built");
    let key = VolumeKey::from_bytes([key; 32]);
    Sealer::new(&key, VOLUME, origin, SealingSalt::from_random([1; 32])).seal(plain).expect("sealed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greetings_that_can_not_be_are_refused_with_the_reason() {
    let victim = Victim::new().await;
    let volume = vec![8; 16].into();
    let far = Hlc::from_ms(clock::wall_ms() + 120_000).0;
    let other_name = |members: &mut grpc::Members| members.members[0].name = "delta".into();
    let mut renamed = hello();
    renamed.members.as_mut().map(other_name).expect("members");
    for (hello, expected) in [
        (grpc::Hello { protocol_version: 99, ..hello() }, "speaks version 3"),
        (grpc::Hello { volume, ..hello() }, "is of another"),
        (grpc::Hello { lanes: vec![0, 1], ..hello() }, "carries the sync lane or all others"),
        (grpc::Hello { lanes: vec![], ..hello() }, "carries the sync lane or all others"),
        (grpc::Hello { site: 3, ..hello() }, "certificate is site 2's"),
        (grpc::Hello { clock: far, ..hello() }, "clocks of both hosts"),
        (grpc::Hello { members: None, ..hello() }, "does not have yourself"),
        (renamed, "two sites were given one id"),
    ] {
        let reason = victim.refusal(hello).await;
        assert!(reason.contains(expected), "{reason:?} has no {expected:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_segments_are_refused_and_nothing_is_applied() {
    let victim = Victim::new().await;
    let good = segment(9, BETA, 1..=3);
    let mut flipped = good.to_vec();
    *flipped.last_mut().expect("bytes") ^= 1;
    for (sealed, expected) in [
        (Bytes::from_static(b"garbage"), "do not begin like a segment"),
        (flipped.into(), "not sealed with this volume's key"),
        (segment(8, BETA, 1..=3), "not sealed with this volume's key"),
        (segment(9, SiteId(3), 1..=3), "is of site 3"),
        (segment(9, BETA, 2..=3), "begins with record 2"),
    ] {
        let reason = victim.refusal_of_segment(sealed).await;
        assert!(reason.contains(expected), "{reason:?} has no {expected:?}");
    }
    // The same sender is served when it behaves.
    let mut link = victim.greet(hello()).await;
    let frame =
        ShipFrame { frame: Some(ship_frame::Frame::Segment(grpc::Segment { sealed: good, lane: 2, more: false })) };
    link.frames.send(frame).await.expect("open");
    loop {
        if let ack_frame::Frame::Ack(ack) = next(&mut link).await {
            assert_eq!(ack.point.map(|point| point.seq), Some(3));
            break;
        }
    }
    assert_eq!(victim.0.sites[0].store.log(BETA, Lane::Normal), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_others_are_refused() {
    let victim = Victim::new().await;
    let address = victim.0.sites[0].listen.to_string();
    let hello = || ShipFrame { frame: Some(ship_frame::Frame::Hello(hello())) };
    let connect = async |name: String, credentials: &Credentials| {
        let link = client::ship(&address, &name, credentials, hello(), 4).await;
        match link {
            // TLS 1.3: a refused client certificate shows with the first answer.
            Ok(mut link) => link.acks.next().await.map(|_| ()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    let name = server_name(VOLUME, SiteId(1));

    // A stranger who knows the volume's id and has its authority's certificate, but an authority of its own.
    let profile = Profile {
        volume: VOLUME,
        volume_name: "data".into(),
        site: BETA,
        site_name: "beta".into(),
        listen_address: "127.0.0.1:9".into(),
        advertised_address: "127.0.0.1:9".into(),
    };
    let stranger = SiteIdentity::found(profile, VolumeKey::from_bytes([1; 32]), clock::wall_ms() / 1000).expect("made");
    let mut forged = Credentials::of(&stranger);
    let refused = connect(name.clone(), &forged).await;
    assert!(refused.is_err(), "the stranger took the site for its own");
    forged.authority_certificate = victim.credentials().authority_certificate;
    assert!(connect(name.clone(), &forged).await.is_err(), "the site took the stranger in");

    // The site is reached, but is not the one that was meant.
    let other = connect(server_name(VOLUME, SiteId(3)), &victim.credentials()).await;
    assert!(other.is_err(), "site 1 passed for site 3");
    let other = connect(server_name(VolumeId([1; 16]), SiteId(1)), &victim.credentials()).await;
    assert!(other.is_err(), "the site passed for one of another volume");

    assert_eq!(connect(name, &victim.credentials()).await, Ok(()));
}
