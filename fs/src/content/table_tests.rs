#![allow(clippy::unwrap_used)]

use std::sync::Barrier;

use super::*;

struct Fixture {
    /// Removed with the fixture.
    dir: tempfile::TempDir,
    table: ObjectTable<u32>,
}

fn fixture(capacity: usize) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let objects = Arc::new(Objects::create(dir.path()).unwrap());
    let dirty = Arc::new(DirtyObjects::new(Arc::clone(&objects)));
    Fixture { dir, table: ObjectTable::new(objects, dirty, capacity) }
}

#[test]
fn finds_only_what_was_made() {
    let fixture = fixture(4);
    let table = &fixture.table;
    assert!(table.find(FileId(7)).unwrap().is_none());
    assert!(table.is_empty(), "a file without an object takes no place");
    let made = table.get(FileId(7)).unwrap();
    *made.write() = 3;
    let found = table.find(FileId(7)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&made, &found));
    assert_eq!(*found.read(), 3);
}

#[test]
fn a_failure_to_open_leaves_no_place_and_is_not_remembered() {
    let Fixture { dir, table } = fixture(4);
    let path = dir.path().join("objects/07/0000000000000007");
    std::fs::create_dir(&path).unwrap();
    assert!(table.get(FileId(7)).is_err());
    assert!(table.is_empty());
    std::fs::remove_dir(&path).unwrap();
    table.get(FileId(7)).unwrap();
}

#[test]
fn keeps_the_recently_used_and_closes_the_others() {
    let fixture = fixture(3);
    let table = &fixture.table;
    for number in 1..=3 {
        *table.get(FileId(number)).unwrap().write() = 9;
    }
    table.get(FileId(1)).unwrap();
    table.get(FileId(4)).unwrap();
    assert_eq!(table.len(), 3);
    let kept: Vec<u64> = (1..=4).filter(|number| table.state.lock().entries.contains_key(&FileId(*number))).collect();
    assert_eq!(kept, [1, 3, 4]);
    assert_eq!(*table.get(FileId(2)).unwrap().read(), 0, "its state went with it");
}

#[test]
fn what_is_in_use_stays_and_the_table_shrinks_afterwards() {
    let fixture = fixture(3);
    let table = &fixture.table;
    let held: Vec<_> = (1..=20).map(|number| table.get(FileId(number)).unwrap()).collect();
    assert_eq!(table.len(), 20);
    for object in &held {
        assert!(Arc::ptr_eq(object, &table.get(object.file()).unwrap()));
        assert!(!table.evict(object.file()));
    }
    drop(held);
    for _ in 0..20 {
        table.get(FileId(1)).unwrap();
    }
    assert_eq!(table.len(), 3);
    let state = table.state.lock();
    assert_eq!(state.order.len(), 3);
}

#[test]
fn evicts() {
    let fixture = fixture(4);
    let table = &fixture.table;
    assert!(table.evict(FileId(1)), "it isn't there");
    table.get(FileId(1)).unwrap();
    assert!(table.evict(FileId(1)));
    assert!(table.is_empty());
    assert!(table.state.lock().order.is_empty());
}

#[test]
fn threads_that_ask_at_once_get_the_same_object() {
    let fixture = fixture(2);
    let table = &fixture.table;
    let barrier = Barrier::new(4);
    for number in 1..100 {
        let objects: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        table.get(FileId(number)).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(objects.iter().all(|object| Arc::ptr_eq(object, &objects[0])));
    }
}

#[test]
fn threads_never_hold_two_objects_of_one_file() {
    // Each adds under the object's lock, in a table that is too small; the handle outlives the state, so counts go to the file.
    let fixture = fixture(1);
    let table = &fixture.table;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                for turn in 0..300u64 {
                    let file = FileId(1 + (thread + turn) % 3);
                    let object = table.get(file).unwrap();
                    let _alone = object.write();
                    let mut count = [0; 8];
                    object.read_at(0, &mut count).unwrap();
                    object.write_all_at(0, &(u64::from_le_bytes(count) + 1).to_le_bytes()).unwrap();
                    drop(_alone);
                    if turn % 7 == 0 {
                        drop(object);
                        table.evict(file);
                    }
                }
            });
        }
    });
    let total: u64 = (1..=3)
        .map(|number| {
            let mut count = [0; 8];
            table.get(FileId(number)).unwrap().read_exact_at(0, &mut count).unwrap();
            u64::from_le_bytes(count)
        })
        .sum();
    assert_eq!(total, 4 * 300);
}

#[test]
fn raises_the_limit_of_descriptors() {
    let limit = raise_descriptor_limit().unwrap();
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    assert_eq!(current, maximum);
    assert_eq!(maximum.unwrap_or(u64::MAX), limit);
}
