#![allow(clippy::unwrap_used)]

use super::*;

const BLOCK: u64 = 64 << 10;

fn object(number: u64) -> Object {
    Object::new(FileId(number), tempfile::tempfile().unwrap(), ())
}

fn bytes(object: &Object) -> Vec<u8> {
    let mut bytes = vec![0; object.len().unwrap() as usize];
    object.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn reads_to_the_end_and_says_how_far_it_came() {
    let object = object(1);
    object.write_all_at(3, b"content").unwrap();
    let mut buf = [0xff; 16];
    assert_eq!(object.read_at(0, &mut buf).unwrap(), 10);
    assert_eq!(&buf[..10], b"\0\0\0content");
    assert_eq!(object.read_at(10, &mut buf).unwrap(), 0);
    assert_eq!(object.read_at(1 << 40, &mut buf).unwrap(), 0);
    assert_eq!(object.read_exact_at(5, &mut buf).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn cuts_and_extends() {
    let object = object(1);
    object.write_all_at(0, b"content").unwrap();
    object.set_len(3).unwrap();
    object.set_len(5).unwrap();
    assert_eq!(bytes(&object), b"con\0\0");
    assert!(!object.is_empty().unwrap());
}

#[test]
fn punches_allocates_and_zeroes() {
    let object = object(1);
    object.write_all_at(0, &vec![7; 4 * BLOCK as usize]).unwrap();
    let full = object.blocks().unwrap();
    object.punch(BLOCK, BLOCK).unwrap();
    assert_eq!(object.blocks().unwrap(), full - BLOCK / 512);
    assert_eq!(object.seek_hole(0).unwrap(), Some(BLOCK));
    assert_eq!(object.seek_data(BLOCK).unwrap(), Some(2 * BLOCK));
    object.allocate(BLOCK, BLOCK, true).unwrap();
    assert_eq!(object.blocks().unwrap(), full);
    object.zero_range(3 * BLOCK, 2 * BLOCK, true).unwrap();
    assert_eq!(object.len().unwrap(), 4 * BLOCK);
    object.zero_range(3 * BLOCK, 2 * BLOCK, false).unwrap();
    assert_eq!(object.len().unwrap(), 5 * BLOCK);
    object.allocate(0, 6 * BLOCK, false).unwrap();
    let mut expected = vec![0; 6 * BLOCK as usize];
    expected[..BLOCK as usize].fill(7);
    expected[2 * BLOCK as usize..3 * BLOCK as usize].fill(7);
    assert!(bytes(&object) == expected);
}

#[test]
fn a_hole_up_to_the_end_frees_the_last_block() {
    for len in [2 * BLOCK + 100, 3 * BLOCK] {
        let object = object(1);
        object.write_all_at(0, &vec![7; len as usize]).unwrap();
        object.punch(2 * BLOCK, len - 2 * BLOCK).unwrap();
        assert_eq!(object.seek_data(2 * BLOCK).unwrap(), None, "{len}");
        assert_eq!(object.seek_hole(0).unwrap(), Some(2 * BLOCK), "{len}");
        assert_eq!(object.len().unwrap(), len);
    }
}

#[test]
fn nothing_to_do_is_no_error() {
    let object = object(1);
    object.punch(5, 0).unwrap();
    object.allocate(5, 0, false).unwrap();
    object.zero_range(5, 0, false).unwrap();
    assert!(object.is_empty().unwrap());
    object.punch(100, 1 << 30).unwrap();
    assert!(object.is_empty().unwrap(), "a hole beyond the end doesn't extend");
}

#[test]
fn zeroes_without_help_from_the_file_system() {
    let object = object(1);
    object.write_all_at(0, &[7; 100]).unwrap();
    object.zero_by_punching(50, 100, true).unwrap();
    assert_eq!(object.len().unwrap(), 100);
    object.zero_by_punching(50, 100, false).unwrap();
    assert_eq!(bytes(&object), [vec![7; 50], vec![0; 100]].concat());
}

#[test]
fn seeks_end_with_the_object() {
    let object = object(1);
    assert_eq!(object.seek_data(0).unwrap(), None);
    assert_eq!(object.seek_hole(0).unwrap(), None);
    object.set_len(BLOCK).unwrap();
    assert_eq!(object.seek_data(0).unwrap(), None);
    assert_eq!(object.seek_hole(7).unwrap(), Some(7));
    object.write_all_at(0, &[1; 10]).unwrap();
    assert_eq!(object.seek_data(3).unwrap(), Some(3));
}

#[test]
fn copies_what_is_there() {
    let (from, to) = (object(1), object(2));
    from.write_all_at(0, b"0123456789").unwrap();
    assert_eq!(to.copy_range(2, &from, 4, 100).unwrap(), 6);
    assert_eq!(bytes(&to), b"\0\x00456789");
    assert_eq!(to.copy_range(0, &from, 10, 5).unwrap(), 0);
    assert_eq!(from.copy_range(10, &from, 0, 10).unwrap(), 10, "side by side");
    assert_eq!(from.copy_range(5, &from, 0, 10).unwrap_err().raw_os_error(), Some(Errno::INVAL.raw_os_error()));
}

#[test]
fn every_change_moves_the_change_time_or_keeps_it() {
    let object = object(1);
    let before = object.change_time().unwrap();
    object.write_all_at(0, b"x").unwrap();
    let after = object.change_time().unwrap();
    assert!(after >= before && after.secs > 0, "{before:?} {after:?}");
}

#[test]
fn the_lock_is_shared_for_looking_and_exclusive_for_changing() {
    let object: Object<u32> = Object::new(FileId(1), tempfile::tempfile().unwrap(), 5);
    let first = object.read();
    assert_eq!(*first + *object.read(), 10);
    assert!(object.state.try_write().is_none());
    drop(first);
    *object.write() += 1;
    assert_eq!(*object.read(), 6);
}
