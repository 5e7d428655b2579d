use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::hlc::{Hlc, Stamp};
use crate::ids::{FileId, Incarnation, Lane, Position, Seq};
use crate::name::Name;
use crate::record::{ContentChange, Data, Edit, Kind, Op, Perms, Time};
use crate::segment::{Codec, Compression};

const VOLUME: VolumeId = VolumeId([7; 16]);
const ORIGIN: SiteId = SiteId(3);

fn key() -> VolumeKey {
    VolumeKey::from_bytes([9; 32])
}

fn sealer(salt: u8) -> Sealer {
    Sealer::new(&key(), VOLUME, ORIGIN, SealingSalt::from_random([salt; 32]))
}

fn opener() -> Opener {
    Opener::new(&key(), VOLUME)
}

fn position() -> Position {
    Position { site: ORIGIN, incarnation: Incarnation(1), lane: Lane::Sync, seq: Seq(4) }
}

fn any_op() -> impl Strategy<Value = Op> {
    let data =
        prop_oneof![vec(any::<u8>(), 0..3000), (any::<u8>(), 0usize..200_000).prop_map(|(byte, len)| vec![byte; len]),];
    let write = (0u64..1 << 40, data).prop_map(|(offset, bytes)| {
        let edit = Edit::Write { offset, data: Data::Bytes(bytes.into()) };
        let base = Stamp { hlc: Hlc(5), position: position() };
        Op::Content(ContentChange { file: FileId::ROOT, base, edit, mtime: None, mode: None, time: Time::default() })
    });
    let create = "[a-z]{1,100}".prop_map(|name| Op::Create {
        file: FileId::new(ORIGIN, 77).expect("in range"),
        parent: FileId::ROOT,
        name: Name::new(name.as_bytes()).expect("a name"),
        kind: Kind::Regular,
        perms: Perms { mode: 0o644, uid: 0, gid: 0 },
        time: Time::default(),
    });
    prop_oneof![write, create]
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    (1u64..1 << 50, vec(any_op(), 1..8)).prop_map(|(first, ops)| {
        let record = |(index, op)| Record { seq: Seq(first + index as u64), hlc: Hlc(1), deps: vec![position()], op };
        ops.into_iter().enumerate().map(record).collect()
    })
}

fn plain(records: &[Record]) -> PlainSegment {
    PlainSegment::build(VOLUME, ORIGIN, Incarnation(2), Lane::Normal, records, Compression::Auto).expect("builds")
}

fn small() -> Vec<Record> {
    let op = Op::SetAttr { file: FileId::ROOT, perms: None, atime: None, mtime: None, time: Time::default() };
    vec![Record { seq: Seq(1), hlc: Hlc(1), deps: Vec::new(), op }]
}

proptest! {
    #[test]
    fn a_segment_survives_a_round_trip(records in any_records()) {
        let segment = plain(&records);
        let (run, bytes) = (segment.run(), segment.sealed_bytes());
        let sealed = sealer(1).seal(segment).expect("seals");
        prop_assert_eq!(sealed.len(), bytes);
        prop_assert_eq!(opener().open(&sealed), Ok(OpenedSegment { run, records }));
    }

    #[test]
    fn a_flipped_bit_is_refused(records in any_records(), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let mut sealed = sealer(1).seal(plain(&records)).expect("seals").to_vec();
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        prop_assert!(opener().open(&sealed).is_err(), "bit {} of byte {}", bit, at);
    }

    #[test]
    fn a_segment_cut_or_lengthened_is_refused(records in any_records(), cut in any::<proptest::sample::Index>()) {
        let sealed = sealer(1).seal(plain(&records)).expect("seals");
        prop_assert!(opener().open(&sealed[..cut.index(sealed.len())]).is_err());
        prop_assert!(opener().open(&[&sealed[..], &[0]].concat()).is_err());
    }

    #[test]
    fn no_bytes_make_the_opener_panic(mut bytes in vec(any::<u8>(), 0..400), head in 0usize..90) {
        let sealed = sealer(1).seal(plain(&small())).expect("seals");
        prop_assert!(opener().open(&bytes).is_err());
        let head = head.min(bytes.len());
        bytes[..head].copy_from_slice(&sealed[..head]);
        prop_assert!(opener().open(&bytes).is_err());
    }
}

#[test]
fn every_flipped_bit_of_a_small_segment_is_refused() {
    let sealed = sealer(1).seal(plain(&small())).expect("seals");
    let mut opener = opener();
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(opener.open(&changed).is_err(), "bit {bit}");
    }
    assert!(opener.open(&sealed).is_ok());
}

#[test]
fn both_codecs_are_sealed_and_opened() {
    for (codec, data) in [(Codec::None, vec![5; 1]), (Codec::Lz4Block, vec![5; 1 << 20])] {
        let mut records = small();
        let edit = Edit::Write { offset: 0, data: Data::Bytes(data.into()) };
        let base = Stamp { hlc: Hlc(5), position: position() };
        let time = Time::default();
        records[0].op = Op::Content(ContentChange { file: FileId::ROOT, base, edit, mtime: None, mode: None, time });
        let segment = plain(&records);
        assert_eq!(segment.codec(), codec);
        let sealed = sealer(1).seal(segment).expect("seals");
        assert_eq!(opener().open(&sealed).map(|opened| opened.records), Ok(records));
    }
}

#[test]
fn another_key_and_another_volume_do_not_open_it() {
    let sealed = sealer(1).seal(plain(&small())).expect("seals");
    let stranger = VolumeKey::from_bytes([8; 32]);
    assert_eq!(Opener::new(&stranger, VOLUME).open(&sealed), Err(OpenError::NotAuthentic));
    let other = VolumeId([6; 16]);
    let refused = Opener::new(&key(), other).open(&sealed);
    assert_eq!(refused, Err(OpenError::OtherVolume { found: VOLUME, expected: other }));
}

#[test]
fn a_sealer_seals_only_its_own_site() {
    let segment = PlainSegment::build(VOLUME, SiteId(4), Incarnation(1), Lane::Normal, &small(), Compression::Auto)
        .expect("builds");
    let refused = sealer(1).seal(segment);
    assert_eq!(refused, Err(SealError::NotOurs { sealer: ORIGIN, segment: SiteId(4) }));
    let segment =
        PlainSegment::build(VolumeId([1; 16]), ORIGIN, Incarnation(1), Lane::Normal, &small(), Compression::Auto)
            .expect("builds");
    assert!(sealer(1).seal(segment).is_err());
}

/// The sealed body of the same records: equal only where key and nonce are.
fn body(sealer: &mut Sealer) -> Vec<u8> {
    sealer.seal(plain(&small())).expect("seals")[HEADER_BYTES..].to_vec()
}

#[test]
fn volume_origin_salt_and_counter_each_give_another_stream() {
    let from = |key: u8, volume, origin, salt| {
        let salt = SealingSalt::from_random([salt; 32]);
        let mut sealer = Sealer::new(&VolumeKey::from_bytes([key; 32]), VolumeId([volume; 16]), SiteId(origin), salt);
        let segment = PlainSegment::build(
            VolumeId([volume; 16]),
            SiteId(origin),
            Incarnation(1),
            Lane::Normal,
            &small(),
            Compression::Auto,
        );
        let sealed = sealer.seal(segment.expect("builds")).expect("seals");
        sealed[HEADER_BYTES..sealed.len() - TAG_BYTES].to_vec()
    };
    let bodies = [from(9, 7, 3, 1), from(8, 7, 3, 1), from(9, 6, 3, 1), from(9, 7, 4, 1), from(9, 7, 3, 2)];
    for (index, body) in bodies.iter().enumerate() {
        assert!(!bodies[..index].contains(body), "body {index} repeats");
    }
    assert_eq!(from(9, 7, 3, 1), bodies[0], "the same inputs give the same stream");

    let mut one = sealer(1);
    let first = body(&mut one);
    assert_ne!(body(&mut one), first);
}

#[test]
fn the_counter_rises_by_one_and_crosses_into_the_next_key() {
    let mut sealer = sealer(1);
    sealer.counter = SEGMENTS_PER_KEY - 1;
    let mut opener = opener();
    for expected in SEGMENTS_PER_KEY - 1..SEGMENTS_PER_KEY + 2 {
        let sealed = sealer.seal(plain(&small())).expect("seals");
        assert_eq!(Header::decode(&sealed).map(|header| header.counter), Ok(expected));
        assert!(opener.open(&sealed).is_ok());
    }
    assert_eq!(sealer.key_number, 1);
    assert_eq!(opener.cached.len(), 2);
}

#[test]
fn a_counter_at_its_end_refuses_for_good() {
    let mut sealer = sealer(1);
    sealer.counter = COUNTER_END - 1;
    let last = sealer.seal(plain(&small())).expect("seals");
    assert!(opener().open(&last).is_ok());
    for _ in 0..3 {
        assert_eq!(sealer.seal(plain(&small())), Err(SealError::Exhausted));
    }
}

#[test]
fn the_cache_is_bounded_and_a_stranger_does_not_touch_it() {
    let mut opener = opener();
    let first = sealer(0).seal(plain(&small())).expect("seals");
    assert!(opener.open(&first).is_ok());
    for salt in 1..=MAX_CACHED_KEYS as u8 {
        let sealed = sealer(salt).seal(plain(&small())).expect("seals");
        assert!(opener.open(&sealed).is_ok());
    }
    assert_eq!(opener.cached.len(), MAX_CACHED_KEYS);
    assert!(opener.cached.iter().all(|(id, _)| id.salt != [0; 32]), "the oldest went");
    assert!(opener.open(&first).is_ok(), "and is derived again");

    let kept: Vec<_> = opener.cached.iter().map(|(id, _)| id.salt).collect();
    let mut forged = first.to_vec();
    for salt in 100..200 {
        forged[49..81].fill(salt);
        assert_eq!(opener.open(&forged), Err(OpenError::NotAuthentic));
    }
    assert_eq!(opener.cached.iter().map(|(id, _)| id.salt).collect::<Vec<_>>(), kept);
}

#[test]
fn a_key_in_use_stays_cached() {
    let mut opener = opener();
    let mut ours = sealer(0);
    for salt in 1..=2 * MAX_CACHED_KEYS as u8 {
        for sealer in [&mut ours, &mut sealer(salt)] {
            assert!(opener.open(&sealer.seal(plain(&small())).expect("seals")).is_ok());
        }
        assert!(opener.cached.iter().any(|(id, _)| id.salt == [0; 32]), "gone after {salt} others");
    }
}

/// The first format, byte by byte, made by another implementation of HKDF and AES-GCM from the drawing above: what is sealed once must
/// open in every later version.
#[test]
fn a_segment_of_format_1_opens() {
    let mut sealer = sealer(1);
    sealer.counter = 3 * SEGMENTS_PER_KEY + 5;
    let sealed = sealer.seal(plain(&small())).expect("seals");
    let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, FORMAT_1);
    assert_eq!(opener().open(&sealed).map(|opened| opened.records), Ok(small()));
}

const FORMAT_1: &str = "\
    53794c5301070707070707070707070707070707070300020000000201000000000000000100000000000000000a0000\
    0001010101010101010101010101010101010101010101010101010101010101010500300000000000d8c42f71567920\
    8c8c5362df6399e3a2d90fc9205f23d5880253";

#[test]
fn secrets_are_not_printed() {
    assert_eq!(format!("{:?}", key()), "VolumeKey(redacted)");
    assert_eq!(format!("{:?}", sealer(1)), "Sealer(site 3, next 0)");
}
