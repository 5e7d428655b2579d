use bytes::Bytes;
use proto::ids::{EntryId, Position, Seq, SiteId};
use proto::name::Name;

use super::*;
use crate::tree::inode::GENESIS;

const DIR: FileId = FileId(7);

fn xattr(directory: FileId, name: &str, value: Option<&str>) -> Put {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let row = Xattr { stamp: GENESIS, value }.encode();
    Put { table: Table::Xattr, key: table::xattr_key(directory, name.as_bytes()), value: Some(row) }
}

fn entry(from: Option<FileId>) -> Put {
    let name = Name::new(b"name").expect("a name");
    let position = Position { site: SiteId(1), seq: Seq(5), ..GENESIS.position };
    let from = from.map(|from| (from, name.clone()));
    let entry = Entry { parent: FileId::ROOT, name, file: DIR, stamp: GENESIS, removal: None, from };
    Put { table: Table::Entry, key: table::entry_key(EntryId(position)), value: Some(entry.encode()) }
}

fn publish(policies: &Policies, puts: &[Put]) {
    policies.apply(policies.change(puts).expect("rows"));
}

fn answer() -> Answer {
    Arc::from([Arc::default()])
}

fn keep_now(policies: &Policies, place: FileId) {
    let generation = policies.answer(place).expect_err("nothing is kept");
    policies.keep(place, answer(), generation);
    assert!(policies.answer(place).is_ok());
}

#[test]
fn attributes_come_and_go() {
    let policies = Policies::default();
    publish(&policies, &[xattr(DIR, "user.other", Some("sync")), entry(Some(DIR))]);
    assert!(!policies.any());
    publish(&policies, &[xattr(DIR, "user.syncline.mode", Some("sync"))]);
    assert!(policies.any());
    assert_eq!(policies.sync_roots(), [DIR]);
    let changes = policies.changes();
    publish(&policies, &[xattr(DIR, "user.syncline.mode", Some("async")), xattr(DIR, "user.syncline.acks", Some("2"))]);
    assert!(policies.changes() > changes);
    assert!(policies.any() && policies.sync_roots().is_empty());
    publish(&policies, &[xattr(DIR, "user.syncline.mode", None)]);
    assert!(policies.any());
    // The row itself goes when the directory is reclaimed.
    publish(&policies, &[Put { value: None, ..xattr(DIR, "user.syncline.acks", None) }]);
    assert!(!policies.any());
    assert_eq!(policies.settings(DIR), None);
}

#[test]
fn what_a_peer_with_another_version_sets_counts_as_absent() {
    let policies = Policies::default();
    publish(&policies, &[xattr(DIR, "user.syncline.mode", Some("psync"))]);
    publish(&policies, &[xattr(DIR, "user.syncline.rpo", Some("5s"))]);
    assert!(!policies.any());
    publish(&policies, &[xattr(DIR, "user.syncline.mode", Some("sync"))]);
    assert!(policies.any());
    publish(&policies, &[xattr(DIR, "user.syncline.mode", Some("psync"))]);
    assert!(!policies.any(), "the value before does not stay in force");
}

#[test]
fn an_answer_from_rows_of_before_is_not_kept() {
    let policies = Policies::default();
    publish(&policies, &[xattr(DIR, "user.syncline.mode", Some("sync"))]);
    for change in [
        vec![xattr(DIR, "user.syncline.acks", Some("2"))],
        vec![entry(Some(FileId(8)))],
        vec![Put { table: Table::Link, key: table::link_key(FileId(9), EntryId(GENESIS.position)), value: None }],
    ] {
        let generation = policies.answer(FileId(9)).expect_err("nothing is kept");
        publish(&policies, &change);
        policies.keep(FileId(9), answer(), generation);
        assert!(policies.answer(FileId(9)).is_err(), "{change:?}");
    }
}

#[test]
fn only_what_may_be_wrong_is_dropped() {
    let policies = Policies::default();
    publish(&policies, &[xattr(DIR, "user.syncline.mode", Some("sync"))]);
    let link = |file| Put { table: Table::Link, key: table::link_key(file, EntryId(GENESIS.position)), value: None };
    keep_now(&policies, DIR);
    keep_now(&policies, FileId(9));
    publish(&policies, &[link(FileId(9)), entry(None)]);
    assert!(policies.answer(DIR).is_ok());
    assert!(policies.answer(FileId(9)).is_err());
    keep_now(&policies, FileId(9));
    publish(&policies, &[entry(Some(FileId(8)))]);
    assert!(policies.answer(DIR).is_err() && policies.answer(FileId(9)).is_err());
    keep_now(&policies, DIR);
    publish(&policies, &[xattr(FileId(3), "user.syncline.acks", Some("1"))]);
    assert!(policies.answer(DIR).is_err());
}

#[test]
fn memory_is_bounded() {
    let policies = Policies::default();
    for file in 0..2 * MAX_ANSWERS as u64 + 5 {
        let generation = policies.answer(FileId(file)).expect_err("nothing is kept");
        policies.keep(FileId(file), answer(), generation);
    }
    assert!(policies.inner.read().answers.len() <= MAX_ANSWERS);
}
