use proto::name::Name;

use super::*;

const DIR: FileId = FileId(9);

fn listing(names: &[&str]) -> Listing {
    let entry = |(index, name): (usize, &&str)| DirEntry {
        name: Name::new(name.as_bytes()).expect("a name"),
        file: FileId(100 + index as u64),
        kind: KindTag::Regular,
    };
    Listing { dir: DIR, parent: FileId::ROOT, entries: names.iter().enumerate().map(entry).collect() }
}

fn names(listing: &Listing, offset: u64) -> Vec<&str> {
    listing.lines(offset).map(|line| std::str::from_utf8(line.name).expect("ASCII")).collect()
}

#[test]
fn dot_and_dot_dot_come_first() {
    let listing = listing(&["a"]);
    let lines: Vec<_> = listing.lines(0).map(|line| (line.name.to_vec(), line.file)).collect();
    assert_eq!(lines, [(b".".to_vec(), DIR), (b"..".to_vec(), FileId::ROOT), (b"a".to_vec(), FileId(100))]);
}

#[test]
fn reading_goes_on_where_each_line_says() {
    let listing = listing(&["a", "b", "c"]);
    let all = names(&listing, 0);
    for (index, line) in listing.lines(0).enumerate() {
        assert_eq!(names(&listing, line.next_offset), all[index + 1..]);
    }
    assert!(names(&listing, u64::MAX).is_empty());
}

#[test]
fn a_handle_lists_one_moment_until_it_rewinds() {
    let open = OpenDirectories::default();
    let handle = open.open();
    let first = open.listing(handle, 0, || Ok(listing(&["a"]))).expect("open");
    let second = open.listing(handle, 1, || panic!("reading goes on")).expect("open");
    assert_eq!(names(&first, 0), names(&second, 0));
    let again = open.listing(handle, 0, || Ok(listing(&["b"]))).expect("open");
    assert_eq!(names(&again, 2), ["b"]);
}

#[test]
fn a_handle_may_begin_in_the_middle() {
    let open = OpenDirectories::default();
    let listing = open.listing(open.open(), 3, || Ok(listing(&["a", "b"]))).expect("open");
    assert_eq!(names(&listing, 3), ["b"]);
}

#[test]
fn a_released_handle_leaves_nothing_behind() {
    let open = OpenDirectories::default();
    let handle = open.open();
    open.release(handle);
    assert!(matches!(open.listing(handle, 0, || Ok(listing(&[]))), Err(FsError::BadHandle)));
    assert!(open.listings.lock().is_empty());
}

#[test]
fn a_failed_listing_is_tried_again() {
    let open = OpenDirectories::default();
    let handle = open.open();
    assert!(open.listing(handle, 0, || Err(FsError::NotFound)).is_err());
    assert_eq!(names(&open.listing(handle, 2, || Ok(listing(&["a"]))).expect("open"), 2), ["a"]);
}
