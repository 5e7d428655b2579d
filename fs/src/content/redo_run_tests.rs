#![allow(clippy::unwrap_used)]

use super::super::redo::{Edit, plan, size_after};
use super::*;

const BLOCK: u64 = 16 << 10;

fn object(bytes: &[u8]) -> Object {
    let object = Object::new(FileId(1), tempfile::tempfile().unwrap(), ());
    object.write_all_at(0, bytes).unwrap();
    object
}

/// Every source byte is the source's number.
fn source(write: &Rewrite<u8>) -> io::Result<Bytes> {
    Ok(Bytes::from(vec![write.source; write.len as usize]))
}

#[test]
fn makes_an_object_right_and_keeps_it_so() {
    // Everything reached the journal, of the object's changes only those up to the extent.
    let edits = [
        Edit::Write { offset: 100, len: 50, source: 1 },
        Edit::Extent { offset: 8 * BLOCK, len: BLOCK },
        Edit::Punch { offset: BLOCK, len: 3 * BLOCK },
        Edit::Write { offset: 2 * BLOCK + 7, len: 10, source: 2 },
        Edit::Truncate { size: 8 * BLOCK + 500 },
        Edit::Truncate { size: 20 * BLOCK },
    ];
    let mut bytes = vec![0xee; 9 * BLOCK as usize];
    bytes[8 * BLOCK as usize..].fill(0xdd);
    let object = object(&bytes);

    let mut expected = vec![0; 20 * BLOCK as usize];
    expected[..8 * BLOCK as usize].fill(0xee);
    expected[100..150].fill(1);
    expected[BLOCK as usize..4 * BLOCK as usize].fill(0);
    expected[2 * BLOCK as usize + 7..2 * BLOCK as usize + 17].fill(2);
    expected[8 * BLOCK as usize..8 * BLOCK as usize + 500].fill(0xdd);

    let plan = plan(edits, size_after(8 * BLOCK, edits));
    for _ in 0..2 {
        plan.run(&object, source).unwrap();
        let mut found = vec![0; object.len().unwrap() as usize];
        object.read_exact_at(0, &mut found).unwrap();
        assert!(found == expected);
        assert_eq!(object.seek_data(9 * BLOCK).unwrap(), None, "holes are holes");
    }
}

#[test]
fn reports_lost_bytes_and_changes_nothing() {
    let object = object(b"short");
    let plan = plan([Edit::Extent { offset: 5, len: 5 }, Edit::Write { offset: 0, len: 1, source: 1 }], 10);
    let error = plan.run(&object, source).unwrap_err();
    assert!(matches!(error, RedoError::LostBytes { len: 5, needed: 10, .. }), "{error}");
    assert_eq!(object.len().unwrap(), 5);
}

#[test]
fn refuses_the_wrong_number_of_bytes() {
    let object = object(b"");
    let plan = plan([Edit::Write { offset: 0, len: 3, source: 1u8 }], 3);
    let error = plan.run(&object, |_| Ok(Bytes::from_static(b"four"))).unwrap_err();
    assert!(matches!(error, RedoError::WrongBytes { wanted: 3, got: 4, .. }), "{error}");
    let error = plan.run(&object, |_| Err(io::Error::other("torn"))).unwrap_err();
    assert!(matches!(error, RedoError::Disk { what: "read the journal's bytes", .. }), "{error}");
}

/// A write of zeros cut by a truncation to a part of its block leaves the block allocated; so does making both again.
#[test]
fn allocates_the_blocks_that_the_edits_allocated() {
    let edits = [
        Edit::Write { offset: 0, len: 2 * BLOCK, source: 0u8 },
        Edit::Truncate { size: 10 },
        Edit::Truncate { size: 3 * BLOCK },
    ];
    let object = object(b"");
    plan(edits, size_after(0, edits)).run(&object, source).unwrap();
    assert_eq!(object.seek_data(0).unwrap(), Some(0));
    assert!(object.seek_hole(0).unwrap().is_some_and(|hole| hole < BLOCK));
    assert_eq!(object.seek_data(BLOCK).unwrap(), None);
}
