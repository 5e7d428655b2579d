use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::ids::{Incarnation, Lane, SiteId};

const FIRST: Position = Position { site: SiteId(1), incarnation: Incarnation(1), lane: Lane::Normal, seq: Seq(1) };

fn any_position() -> impl Strategy<Value = Position> {
    (1u16.., 1u32.., 0u8..4, any::<u64>()).prop_map(|(site, incarnation, lane, seq)| Position {
        site: SiteId(site),
        incarnation: Incarnation(incarnation),
        lane: Lane::from_u8(lane).expect("below four"),
        seq: Seq(seq),
    })
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), any_position()).prop_map(|(hlc, position)| Stamp { hlc: Hlc(hlc), position })
}

fn any_file() -> impl Strategy<Value = FileId> {
    prop_oneof![
        Just(FileId::ROOT),
        (1u16.., 1..=FileId::COUNTER_MAX)
            .prop_map(|(site, counter)| FileId::new(SiteId(site), counter).expect("in range")),
    ]
}

fn any_name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..=255).prop_filter_map("a name", |bytes| Name::new(&bytes).ok())
}

fn any_time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| Time { secs, nanos })
}

fn any_perms() -> impl Strategy<Value = Perms> {
    (0u32..=0o7777, any::<u32>(), any::<u32>()).prop_map(|(mode, uid, gid)| Perms { mode, uid, gid })
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Regular),
        Just(Kind::Directory),
        vec(1u8.., 1..100).prop_map(|target| Kind::Symlink(target.into())),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        any::<u64>().prop_map(Kind::CharDevice),
        any::<u64>().prop_map(Kind::BlockDevice),
    ]
}

fn any_seen() -> impl Strategy<Value = SeenEntry> {
    (any_position(), any_stamp(), any_stamp()).prop_map(|(entry, stamp, content)| SeenEntry {
        entry: EntryId(entry),
        stamp,
        content,
    })
}

fn any_move() -> impl Strategy<Value = Move> {
    (any_position(), any_file(), any_file(), any_file(), any_name())
        .prop_map(|(entry, file, from, parent, name)| Move { entry: EntryId(entry), file, from, parent, name })
}

fn any_range() -> impl Strategy<Value = CopiedRange> {
    (any_file(), 0..(i64::MAX as u64 / 2), 0..=MAX_DATA_BYTES as u32, any::<[u8; 32]>())
        .prop_map(|(from, offset, len, hash)| CopiedRange { from, offset, len, hash: ContentHash(hash) })
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let offset = 0..(i64::MAX as u64 / 2);
    prop_oneof![
        (offset.clone(), vec(any::<u8>(), 0..64))
            .prop_map(|(offset, bytes)| Edit::Write { offset, data: Data::Bytes(bytes.into()) }),
        (offset.clone(), any::<u32>()).prop_map(|(offset, len)| Edit::Write { offset, data: Data::Extent(len) }),
        (offset.clone(), any_range()).prop_map(|(offset, range)| Edit::Write { offset, data: Data::Copy(range) }),
        offset.clone().prop_map(|size| Edit::Truncate { size }),
        (offset.clone(), offset.clone()).prop_map(|(offset, len)| Edit::Punch { offset, len }),
        offset.prop_map(|size| Edit::Replace { size }),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let bytes = |most: usize| vec(1u8.., 1..most).prop_map(Bytes::from);
    prop_oneof![
        (any_file(), any_file(), any_name(), any_kind(), any_perms(), any_time())
            .prop_map(|(file, parent, name, kind, perms, time)| Op::Create { file, parent, name, kind, perms, time }),
        (any_file(), any_file(), any_name(), any_time()).prop_map(|(file, parent, name, time)| Op::Link {
            file,
            parent,
            name,
            time
        }),
        (any_file(), vec(any_seen(), 0..4), any_time()).prop_map(|(parent, entries, time)| Op::Remove {
            parent,
            entries,
            time
        }),
        (vec(any_move(), 0..3), vec(any_seen(), 0..3), any_time()).prop_map(|(moves, replaces, time)| Op::Rename {
            moves,
            replaces,
            time
        }),
        (any_file(), option::of(any_perms()), option::of(any_time()), option::of(any_time()), any_time())
            .prop_map(|(file, perms, atime, mtime, time)| Op::SetAttr { file, perms, atime, mtime, time }),
        (any_file(), bytes(255), option::of(bytes(300)), any_time())
            .prop_map(|(file, name, value, time)| Op::SetXattr { file, name, value, time }),
        (any_file(), any_stamp(), any_edit(), option::of(any_time()), option::of(0u32..=0o7777), any_time()).prop_map(
            |(file, base, edit, mtime, mode, time)| Op::Content(ContentChange { file, base, edit, mtime, mode, time })
        ),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    (any::<u64>(), any::<u64>(), vec(any_position(), 0..4), any_op()).prop_map(|(seq, hlc, deps, op)| Record {
        seq: Seq(seq),
        hlc: Hlc(hlc),
        deps,
        op,
    })
}

proptest! {
    #[test]
    fn a_record_survives_a_round_trip(record in any_record()) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let mut reader = Reader::new(bytes.into());
        prop_assert_eq!(Record::decode(&mut reader), Ok(record));
        prop_assert_eq!(reader.finish("the record"), Ok(()));
    }

    #[test]
    fn a_record_cut_short_is_refused(record in any_record(), cut in any::<proptest::sample::Index>()) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Record::decode(&mut Reader::new(bytes.into())).is_err());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Record::decode(&mut Reader::new(bytes.into()));
    }
}

#[test]
fn a_write_beyond_the_largest_file_is_refused() {
    let edit = Edit::Write { offset: i64::MAX as u64, data: Data::Bytes(Bytes::from_static(b"x")) };
    assert!(edit.check().is_err());
}

#[test]
fn a_copy_that_no_site_makes_is_refused() {
    let range = CopiedRange { from: FileId::ROOT, offset: 0, len: 1, hash: ContentHash::of(b"x") };
    let decoded = |range| {
        let stamp = Stamp { hlc: Hlc(1), position: FIRST };
        let edit = Edit::Write { offset: 0, data: Data::Copy(range) };
        let time = Time { secs: 0, nanos: 0 };
        let change = ContentChange { file: FileId::ROOT, base: stamp, edit, mtime: None, mode: None, time };
        let mut bytes = Vec::new();
        Op::Content(change).encode(&mut bytes);
        Op::decode(&mut Reader::new(bytes.into()))
    };
    assert!(decoded(range).is_ok());
    assert!(decoded(CopiedRange { len: MAX_DATA_BYTES as u32, ..range }).is_ok());
    assert!(decoded(CopiedRange { len: MAX_DATA_BYTES as u32 + 1, ..range }).is_err(), "too long");
    assert!(decoded(CopiedRange { len: u32::MAX, ..range }).is_err(), "too long");
    assert!(decoded(CopiedRange { offset: i64::MAX as u64, ..range }).is_err(), "beyond the largest file");
    assert!(decoded(CopiedRange { offset: u64::MAX, ..range }).is_err(), "an overflow");
}
