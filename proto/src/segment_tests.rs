use proptest::prelude::*;

use super::*;
use crate::hlc::{Hlc, Stamp};
use crate::ids::{EntryId, FileId, Position};
use crate::name::Name;
use crate::record::{MAX_DATA_BYTES, Move, SeenEntry, Time};

const VOLUME: VolumeId = VolumeId([7; 16]);

fn stamp() -> Stamp {
    Stamp { hlc: Hlc(u64::MAX), position: position() }
}

fn position() -> Position {
    Position { site: SiteId(u16::MAX), incarnation: Incarnation(u32::MAX), lane: Lane::Bulk, seq: Seq(u64::MAX) }
}

fn write(seq: u64, data: Data) -> Record {
    let edit = Edit::Write { offset: 0, data };
    let change =
        ContentChange { file: FileId::ROOT, base: stamp(), edit, mtime: None, mode: None, time: Time::default() };
    Record { seq: Seq(seq), hlc: Hlc(seq), deps: Vec::new(), op: Op::Content(change) }
}

fn touch(seq: u64) -> Record {
    let op = Op::SetAttr { file: FileId::ROOT, perms: None, atime: None, mtime: None, time: Time::default() };
    Record { seq: Seq(seq), hlc: Hlc(seq), deps: Vec::new(), op }
}

fn build(records: &[Record]) -> Result<PlainSegment, BuildError> {
    PlainSegment::build(VOLUME, SiteId(3), Incarnation(1), Lane::Normal, records, Compression::Auto)
}

/// Bytes that LZ4 can't shrink.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| byte()).collect()
}

/// A header and body as a member of the volume with bad intent could seal them.
fn parse(first: u64, last: u64, codec: Codec, plain_bytes: usize, body: Vec<u8>) -> Result<Vec<Record>, OpenError> {
    let run = Run {
        volume: VOLUME,
        origin: SiteId(3),
        incarnation: Incarnation(1),
        lane: Lane::Normal,
        first: Seq(first),
        last: Seq(last),
    };
    records(&Header { run, codec, plain_bytes: plain_bytes as u32, salt: [0; 32], counter: 0 }, body)
}

fn encoded(records: &[Record]) -> Vec<u8> {
    let mut body = Vec::new();
    records.iter().for_each(|record| record.encode(&mut body));
    body
}

#[test]
fn no_records_are_no_segment() {
    assert_eq!(build(&[]).err(), Some(BuildError::Empty));
}

#[test]
fn a_gap_a_repetition_and_a_start_at_zero_are_refused() {
    let gap = build(&[touch(5), touch(7)]).err();
    assert_eq!(gap, Some(BuildError::NotConsecutive { expected: Seq(6), found: Seq(7) }));
    let twice = build(&[touch(5), touch(5)]).err();
    assert_eq!(twice, Some(BuildError::NotConsecutive { expected: Seq(6), found: Seq(5) }));
    let zero = build(&[touch(0)]).err();
    assert_eq!(zero, Some(BuildError::NotConsecutive { expected: Seq(1), found: Seq(0) }));
}

#[test]
fn extents_stay_at_home() {
    let built = build(&[touch(1), write(2, Data::Extent(10))]).err();
    assert_eq!(built, Some(BuildError::Extent { seq: Seq(2) }));
    let records = [write(1, Data::Extent(10))];
    let body = encoded(&records);
    assert_eq!(parse(1, 1, Codec::None, body.len(), body), Err(OpenError::Extent { seq: Seq(1) }));
}

#[test]
fn what_does_not_fit_says_how_much_does() {
    let records: Vec<_> = (1..=3).map(|seq| write(seq, Data::Bytes(vec![1; 900_000].into()))).collect();
    assert_eq!(build(&records).err(), Some(BuildError::TooLarge { fitting: 2 }));
    assert_eq!(build(&records[..2]).map(|segment| segment.run().last), Ok(Seq(2)));

    let records: Vec<_> = (1..=MAX_SEGMENT_RECORDS as u64 + 1).map(touch).collect();
    assert_eq!(build(&records).err(), Some(BuildError::TooLarge { fitting: MAX_SEGMENT_RECORDS }));
    assert!(build(&records[..MAX_SEGMENT_RECORDS]).is_ok());
}

#[test]
fn the_largest_records_fit() {
    let name = Name::new(&[b'n'; Name::MAX_BYTES]).expect("valid");
    let file = FileId::new(SiteId(u16::MAX), FileId::COUNTER_MAX).expect("valid");
    let one = Move { entry: EntryId(position()), file, from: file, parent: file, name };
    let op = Op::Rename {
        moves: vec![one; 4096],
        replaces: vec![SeenEntry { entry: EntryId(position()), stamp: stamp(), content: stamp() }; 4096],
        time: Time { secs: i64::MIN, nanos: 999_999_999 },
    };
    let rename = Record { seq: Seq(1), hlc: Hlc(u64::MAX), deps: vec![position(); 4096], op };
    let mut data = write(1, Data::Bytes(noise(MAX_DATA_BYTES).into()));
    data.deps = vec![position(); 4096];
    for record in [rename, data] {
        assert!(build(&[record]).is_ok());
    }
}

#[test]
fn only_what_shrinks_is_compressed() {
    for len in [10_000, 1_000_000] {
        let text = build(&[write(1, Data::Bytes(b"one line of a log\n".repeat(len / 18).into()))]).expect("valid");
        assert_eq!(text.codec(), Codec::Lz4Block);
        assert!(text.sealed_bytes() < text.plain_bytes() / 10);

        let random = build(&[write(1, Data::Bytes(noise(len).into()))]).expect("valid");
        assert_eq!(random.codec(), Codec::None);
        assert_eq!(random.sealed_bytes(), HEADER_BYTES + random.plain_bytes() + TAG_BYTES);
    }
}

#[test]
fn a_body_decompresses_to_its_stated_length_or_is_refused() {
    let records = [write(1, Data::Bytes(vec![0; 100_000].into()))];
    let plain = encoded(&records);
    let body = lz4_flex::block::compress(&plain);
    assert_eq!(parse(1, 1, Codec::Lz4Block, plain.len(), body.clone()), Ok(records.to_vec()));
    for wrong in [plain.len() - 1, plain.len() + 1, 1, MAX_SEGMENT_BYTES] {
        assert_eq!(parse(1, 1, Codec::Lz4Block, wrong, body.clone()), Err(OpenError::Decompress), "{wrong}");
    }
}

#[test]
fn a_body_has_the_records_of_its_header_or_is_refused() {
    let body = encoded(&[touch(5), touch(6), touch(7)]);
    let parse = |first, last| parse(first, last, Codec::None, body.len(), body.clone());
    assert_eq!(parse(5, 7).map(|records| records.len()), Ok(3));
    assert_eq!(parse(4, 6), Err(OpenError::NotConsecutive { expected: Seq(4), found: Seq(5) }));
    assert!(matches!(parse(5, 6), Err(OpenError::Record(DecodeError::Invalid { .. }))));
    assert!(matches!(parse(5, 8), Err(OpenError::Record(DecodeError::Short { .. }))));
}

fn header() -> Header {
    let run = Run {
        volume: VOLUME,
        origin: SiteId(3),
        incarnation: Incarnation(9),
        lane: Lane::Bulk,
        first: Seq(1 << 40),
        last: Seq((1 << 40) + 5),
    };
    Header { run, codec: Codec::None, plain_bytes: 300, salt: [0x5a; 32], counter: 0x0102_0304_0506_0708 }
}

fn with_body(header: &Header, body_bytes: usize) -> Vec<u8> {
    let mut segment = header.encode().to_vec();
    segment.resize(HEADER_BYTES + body_bytes + TAG_BYTES, 0);
    segment
}

#[test]
fn a_header_stands_where_the_drawing_says() {
    let header = header();
    let bytes = with_body(&header, 300);
    assert_eq!(Header::decode(&bytes), Ok(header));
    assert_eq!(bytes[..5], *b"SyLS\x01");
    assert_eq!(bytes[5..21], VOLUME.0);
    assert_eq!(bytes[21..28], [3, 0, 9, 0, 0, 0, 3]);
    assert_eq!(bytes[28..44], [[0, 0, 0, 0, 0, 1, 0, 0], [5, 0, 0, 0, 0, 1, 0, 0]].concat());
    assert_eq!(bytes[44..49], [0, 44, 1, 0, 0]);
    assert_eq!(bytes[49..81], [0x5a; 32]);
    assert_eq!(bytes[81..89], [8, 7, 6, 5, 4, 3, 2, 1]);
}

#[test]
fn a_header_that_no_site_writes_is_refused() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = with_body(&header(), 300);
        change(&mut bytes);
        Header::decode(&bytes).expect_err("refused")
    };
    let invalid = |what| OpenError::Header { what };
    assert_eq!(refused(&|bytes| bytes[0] = b'x'), OpenError::NotASegment);
    assert_eq!(refused(&|bytes| bytes[4] = 2), OpenError::UnknownVersion { version: 2 });
    assert_eq!(refused(&|bytes| bytes[21] = 0), invalid("origin"));
    assert_eq!(refused(&|bytes| bytes[23] = 0), invalid("incarnation"));
    assert_eq!(refused(&|bytes| bytes[27] = 4), invalid("lane"));
    assert_eq!(refused(&|bytes| bytes[28..36].fill(0)), invalid("sequence numbers"));
    assert_eq!(refused(&|bytes| bytes[28] = 6), invalid("sequence numbers"));
    assert_eq!(refused(&|bytes| bytes[36..44].fill(0xff)), invalid("sequence numbers"));
    assert_eq!(refused(&|bytes| bytes[38] = 1), invalid("number of records"));
    assert_eq!(refused(&|bytes| bytes[44] = 2), invalid("codec"));
    assert_eq!(refused(&|bytes| bytes[44] = 1), invalid("plain length"));
    assert_eq!(refused(&|bytes| bytes[45] += 1), invalid("plain length"));
    assert_eq!(refused(&|bytes| bytes.truncate(104)), OpenError::TooShort { bytes: 104 });
    let most = MAX_SEALED_BYTES + 1;
    assert_eq!(refused(&|bytes| bytes.resize(most, 0)), OpenError::TooLong { bytes: most });
    let bomb = refused(&|bytes| {
        bytes[44] = 1;
        bytes[45..49].copy_from_slice(&(MAX_SEGMENT_BYTES as u32 + 1).to_le_bytes());
    });
    assert_eq!(bomb, invalid("plain length"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(
        start in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..400), plain in 0usize..5000, first in 1u64..3,
    ) {
        let mut segment = if start { b"SyLS\x01".to_vec() } else { Vec::new() };
        segment.extend_from_slice(&bytes);
        let _ = Header::decode(&segment);
        let _ = parse(first, first + 2, Codec::None, bytes.len(), bytes.clone());
        let _ = parse(first, first + 2, Codec::Lz4Block, plain, bytes);
    }
}

proptest! {
    /// What was asked holds, whatever the bytes; and what is opened is what was put in.
    #[test]
    fn compression_is_as_asked(
        pieces in proptest::collection::vec((1usize..60_000, any::<bool>()), 1..5)
    ) {
        let write = |(index, (len, shrinks)): (usize, (usize, bool))| {
            let bytes = if shrinks { vec![7; len] } else { noise(len) };
            write(index as u64 + 1, Data::Bytes(bytes.into()))
        };
        let written: Vec<Record> = pieces.into_iter().enumerate().map(write).collect();
        let of = |compression| PlainSegment::build(VOLUME, SiteId(3), Incarnation(1), Lane::Normal, &written, compression);
        let (never, auto, always) = (of(Compression::Never)?, of(Compression::Auto)?, of(Compression::Always)?);
        prop_assert_eq!(never.codec(), Codec::None);
        prop_assert!(always.sealed_bytes() <= auto.sealed_bytes() && auto.sealed_bytes() <= never.sealed_bytes());
        prop_assert!(always.sealed_bytes() < never.sealed_bytes() || always.codec() == Codec::None);
        for segment in [never, auto, always] {
            let header =
                Header { run: segment.run, codec: segment.codec, plain_bytes: segment.plain_bytes, salt: [0; 32], counter: 0 };
            prop_assert_eq!(&records(&header, segment.message[HEADER_BYTES..].to_vec())?, &written);
        }
    }
}
