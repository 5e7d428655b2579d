#![allow(clippy::unwrap_used)]

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::*;

struct Fixture {
    _dir: tempfile::TempDir,
    objects: Arc<Objects>,
    dirty: DirtyObjects,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let objects = Arc::new(Objects::create(dir.path()).unwrap());
    Fixture { _dir: dir, dirty: DirtyObjects::new(Arc::clone(&objects)), objects }
}

impl Fixture {
    fn create(&self, number: u64) -> (FileId, Arc<File>) {
        let file = FileId(number);
        let opened = self.objects.open_object(file, true).unwrap().unwrap();
        if opened.created {
            self.dirty.note_created(file);
        }
        (file, Arc::new(opened.handle))
    }
}

/// A descriptor whose `fdatasync` fails (EINVAL: a pipe holds nothing to flush).
fn broken() -> Arc<File> {
    let (reader, _writer) = io::pipe().unwrap();
    Arc::new(File::from(OwnedFd::from(reader)))
}

#[test]
fn a_flush_takes_the_marks_and_lets_the_handles_go() {
    let fixture = fixture();
    fixture.dirty.flush().unwrap();
    let (file, handle) = fixture.create(5);
    assert!(!fixture.dirty.is_marked(), "creating alone needs no flush");
    fixture.dirty.mark(file, &handle);
    fixture.dirty.mark(file, &handle);
    assert!(fixture.dirty.is_marked());
    assert_eq!(Arc::strong_count(&handle), 2);
    assert!(fixture.dirty.state.lock().new_entries[5]);
    fixture.dirty.flush().unwrap();
    assert!(!fixture.dirty.is_marked());
    assert_eq!(Arc::strong_count(&handle), 1);
    assert!(!fixture.dirty.state.lock().new_entries[5]);
}

#[test]
fn the_directory_of_an_unmarked_object_stays_for_later() {
    let fixture = fixture();
    let (file, handle) = fixture.create(5);
    fixture.create(6);
    fixture.dirty.mark(file, &handle);
    fixture.dirty.flush().unwrap();
    assert!(fixture.dirty.state.lock().new_entries[6]);
    fixture.dirty.flush_all().unwrap();
    assert!(!fixture.dirty.state.lock().new_entries[6]);
}

#[test]
fn many_marks_hold_no_handles() {
    let fixture = fixture();
    let handles: Vec<_> = (1..=100).map(|number| fixture.create(number)).collect();
    for (file, handle) in &handles {
        fixture.dirty.mark(*file, handle);
    }
    assert!(fixture.dirty.is_marked());
    assert!(handles.iter().all(|(_, handle)| Arc::strong_count(handle) == 1));
    fixture.dirty.flush().unwrap();
    assert!(!fixture.dirty.is_marked());
    assert_eq!(fixture.dirty.state.lock().new_entries, [false; DIRECTORIES]);
}

#[test]
fn a_failed_flush_is_never_made_good_by_a_later_one() {
    let fixture = fixture();
    fixture.dirty.note_created(FileId(9));
    fixture.dirty.mark(FileId(9), &broken());
    let first = fixture.dirty.flush().unwrap_err();
    assert!(fixture.dirty.is_marked(), "the mark stays");
    assert!(fixture.dirty.state.lock().new_entries[9], "the directory stays");
    let (file, handle) = fixture.create(1);
    fixture.dirty.mark(file, &handle);
    for again in [fixture.dirty.flush(), fixture.dirty.flush_all()] {
        assert_eq!(again.unwrap_err().raw_os_error(), first.raw_os_error());
    }
}

#[test]
fn a_flush_waits_for_the_one_before_it() {
    let fixture = fixture();
    let (file, handle) = fixture.create(1);
    fixture.dirty.mark(file, &handle);
    std::thread::scope(|scope| {
        let under_way = fixture.dirty.flushing.lock();
        let second = scope.spawn(|| fixture.dirty.flush());
        // Too short a pause could only hide a mistake, never show one that isn't there.
        std::thread::sleep(Duration::from_millis(30));
        assert!(!second.is_finished());
        assert!(fixture.dirty.is_marked(), "it takes no mark before its turn");
        drop(under_way);
        second.join().unwrap().unwrap();
    });
    assert!(!fixture.dirty.is_marked());
}

#[test]
fn what_is_flushed_ahead_leaves_a_mark_only_for_its_directory() {
    let fixture = fixture();
    let (file, handle) = fixture.create(7);
    fixture.dirty.flush_ahead(file, &handle).unwrap();
    assert!(fixture.dirty.is_marked(), "the directory has a new entry");
    fixture.dirty.flush().unwrap();
    fixture.dirty.flush_ahead(file, &handle).unwrap();
    assert!(!fixture.dirty.is_marked());
}

#[test]
fn a_failure_ahead_fails_every_flush_after_it() {
    let fixture = fixture();
    assert!(fixture.dirty.flush_ahead(FileId(7), &broken()).is_err());
    assert!(fixture.dirty.flush().is_err());
    let (file, handle) = fixture.create(8);
    assert!(fixture.dirty.flush_ahead(file, &handle).is_err());
}
