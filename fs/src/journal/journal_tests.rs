//! The journal in normal use: appending, flushing, reading lanes, recycling, failing.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use proptest::prelude::*;
use proto::ids::{Incarnation, Lane, Seq, SiteId};

use super::testing::*;
use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// Waits for a condition; fails when it does not come.
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn started(dir: &Path, checkpoint: Lsn) -> (Journal, Recovered) {
    let (journal, recovered) = Journal::open(dir, options(), checkpoint).unwrap();
    journal.start(Box::new(|| Ok(()))).unwrap();
    (journal, recovered)
}

#[test]
fn lanes_read_as_they_were_written_over_many_recycled_generations() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        Journal::create(dir.path(), options()).unwrap();
        let (journal, _) = started(dir.path(), Lsn::ZERO);
        let mut model = Model::default();
        let mut watermarks = [Seq::ZERO; 4];
        for _ in 0..60 {
            for _ in 0..random.below(40) {
                model.append(&journal, &mut random, 3_000).unwrap();
            }
            journal.wait_durable(journal.appended()).unwrap();
            journal.set_checkpoint(Lsn(random.below(journal.durable().0 + 1)));
            for lane in Lane::ALL {
                let seq = Seq(journal.durable_lane_head(lane).seq.0.saturating_sub(random.below(60)));
                journal.set_watermark(lane, seq);
                // One that is lower than before changes nothing.
                watermarks[lane as usize] = seq.max(watermarks[lane as usize]);
            }
            for lane in Lane::ALL {
                // Whatever is above the watermark must be there; below it, the reader must be told or served.
                let head = journal.durable_lane_head(lane).seq.0;
                let above = watermarks[lane as usize].0;
                let after = Seq(above + random.below(head - above + 1));
                model.check_lane(&journal, lane, after, random.below(20_000) as usize);
                let below = Seq(random.below(head + 1));
                match journal.read_lane(lane, below, 1, ReadEnd::Durable) {
                    Err(ReadError::Truncated { floor, .. }) => {
                        assert!(below < floor && floor.0 <= above, "truncated {floor} above the watermark {above}");
                    }
                    read => assert!(read.unwrap().first().is_none_or(|batch| batch.last_seq > below)),
                }
                let batches: Vec<_> = model.own(lane).collect();
                let expected = batches.iter().rev().find(|kept| kept.last_seq <= after);
                assert_eq!(journal.lane_bytes_at(lane, after).unwrap(), expected.map_or(0, |kept| kept.lane_bytes));
            }
            let kept = &model.kept[random.below(model.kept.len() as u64) as usize];
            match journal.read_at(kept.location) {
                Err(ReadError::Gone { .. }) => {
                    assert!(kept.lsn < journal.files()[0].lsns.unwrap().0);
                }
                read => model.check_batch(kept.lsn, &read.unwrap()),
            }
        }
        let generations = journal.shared.writer.lock().next_generation;
        assert!(generations > 15, "only {generations} generations");
        // With everything released, little is left.
        journal.set_checkpoint(journal.durable());
        for lane in Lane::ALL {
            journal.set_watermark(lane, Seq(u64::MAX));
        }
        until("full files are recycled", || journal.files().iter().all(|file| file.used != FileUse::Sealed));
        until("surplus files are deleted", || fs::read_dir(dir.path()).unwrap().count() <= 1 + upkeep::SPARE_FILES);
        let checkpoint = journal.durable();
        journal.close().unwrap();
        drop(journal);
        let (journal, mut recovered) = started(dir.path(), checkpoint);
        assert!(recovered.next().is_none());
        assert_eq!(recovered.head(), checkpoint);
        model.check_heads(&journal);
    }
}

#[test]
fn a_lost_footer_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let (mut model, mut random) = (Model::default(), Random(7));
    for _ in 0..100 {
        model.append(&journal, &mut random, 4_000).unwrap();
    }
    journal.wait_durable(journal.appended()).unwrap();
    let intact = image(dir.path());
    let sealed: Vec<_> = journal.files().into_iter().filter(|file| file.used == FileUse::Sealed).collect();
    assert!(sealed.len() > 2);
    // As after a start: what is in memory needs no footer.
    journal.shared.writer.lock().recent = recent::Recent::default();
    for file in &sealed {
        let mut bytes = intact[&file.path].clone();
        let len = bytes.len();
        bytes[len - 4096..].fill(0xff);
        fs::write(&file.path, bytes).unwrap();
    }
    for lane in Lane::ALL {
        for after in (0..model.head(lane).0.0).step_by(5) {
            model.check_lane(&journal, lane, Seq(after), 10_000);
        }
    }
    for file in &sealed[..sealed.len() - 1] {
        // A footer of one point; the rest of its place means nothing.
        let end = intact[&file.path].len() - 4096 + 136;
        let rebuilt = fs::read(&file.path).unwrap();
        assert!(rebuilt[..end] == intact[&file.path][..end], "{} is not as it was", file.path.display());
    }
}

/// Damage is noticed only where a reader looks.
#[test]
fn a_lane_is_read_without_looking_at_what_others_put_in_between() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let (mut model, mut random) = (Model::default(), Random(3));
    for _ in 0..4 {
        model.append_this(&journal, BatchKind::Own, Lane::Sync, 2, vec![1], random.bytes(200)).unwrap();
        for _ in 0..100 {
            let bytes = random.bytes(3_000);
            model.append_this(&journal, BatchKind::Own, Lane::Bulk, 1, vec![1], bytes).unwrap();
        }
    }
    journal.wait_durable(journal.appended()).unwrap();
    let check = |journal: &Journal| {
        let files = journal.files();
        let intact = image(dir.path());
        let sync: Vec<Lsn> = model.own(Lane::Sync).map(|kept| kept.lsn).collect();
        let without = |file: &&FileStatus| {
            file.lsns.is_some_and(|(first, last)| !sync.iter().any(|lsn| (first..=last).contains(lsn)))
        };
        let damaged: Vec<_> = files.iter().filter(without).collect();
        assert!(damaged.len() > 10, "{} of {} files", damaged.len(), files.len());
        for file in &damaged {
            fs::write(&file.path, vec![0xff; intact[&file.path].len()]).unwrap();
        }
        assert!(journal.read_lane(Lane::Bulk, Seq::ZERO, 1 << 30, ReadEnd::Durable).is_err(), "nothing is damaged");
        for after in 0..8 {
            model.check_lane(journal, Lane::Sync, Seq(after), 1 << 30);
            model.check_lane(journal, Lane::Sync, Seq(after), 1);
            let before = model.own(Lane::Sync).filter(|kept| kept.last_seq <= Seq(after)).last();
            let bytes = journal.lane_bytes_at(Lane::Sync, Seq(after)).unwrap();
            assert_eq!(bytes, before.map_or(0, |kept| kept.lane_bytes));
        }
        for (path, bytes) in &intact {
            fs::write(path, bytes).unwrap();
        }
    };
    check(&journal);
    // Again when what was kept in memory is gone.
    journal.close().unwrap();
    drop(journal);
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    journal.wait_durable(journal.appended()).unwrap();
    check(&journal);
}

#[test]
fn what_is_appended_is_read_before_it_is_durable_if_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let mut model = Model::default();
    model.append_this(&journal, BatchKind::Own, Lane::Sync, 1, vec![1], vec![1; 100]).unwrap();
    let read = |end| journal.read_lane(Lane::Sync, Seq::ZERO, 1, end).unwrap().len();
    assert_eq!((read(ReadEnd::Durable), read(ReadEnd::Appended)), (0, 1));
    journal.wait_durable(Lsn(1)).unwrap();
    assert_eq!((read(ReadEnd::Durable), read(ReadEnd::Appended)), (1, 1));
}

#[test]
fn a_damaged_batch_stops_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let mut model = Model::default();
    for byte in 0..3 {
        model.append_this(&journal, BatchKind::Own, Lane::High, 1, vec![1], vec![byte; 100]).unwrap();
    }
    journal.wait_durable(Lsn(3)).unwrap();
    let file = &journal.files()[0].path;
    let mut bytes = fs::read(file).unwrap();
    bytes[model.kept[1].location.offset as usize + 120] ^= 1;
    fs::write(file, bytes).unwrap();
    assert_eq!(journal.read_lane(Lane::High, Seq(0), 1, ReadEnd::Durable).unwrap().len(), 1);
    let read = journal.read_lane(Lane::High, Seq(1), 1, ReadEnd::Durable);
    assert!(matches!(read, Err(ReadError::Journal(JournalError::Damaged { lsn: Lsn(2), .. }))));
    assert!(matches!(journal.read_at(model.kept[1].location), Err(ReadError::Unreadable { .. })));
    assert_eq!(journal.read_lane(Lane::High, Seq(2), 1, ReadEnd::Durable).unwrap().len(), 1);
    let nowhere = Location { offset: model.kept[1].location.offset + 32, ..model.kept[1].location };
    assert!(matches!(journal.read_at(nowhere), Err(ReadError::Unreadable { .. })));
}

#[test]
fn many_threads_append_and_wait() {
    const THREADS: u64 = 8;
    const EACH: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = started(dir.path(), Lsn::ZERO);
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    journal.on_progress(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let journal = &journal;
            scope.spawn(move || {
                for number in 0..EACH {
                    let records = format!("{thread}/{number}").into_bytes();
                    let batch = state_batch(&records);
                    let appended = journal.append(&batch).unwrap();
                    if number % 3 == 0 {
                        journal.wait_durable(appended.lsn).unwrap();
                        assert!(journal.durable() >= appended.lsn);
                    }
                    assert_eq!(journal.read_at(appended.location).unwrap().records, records);
                }
            });
        }
    });
    until("the background flush makes the rest durable", || journal.durable() == Lsn(THREADS * EACH));
    let told = told.load(Ordering::SeqCst) as u64;
    assert!((1..=THREADS * EACH).contains(&told), "told of flushes, not of appends: {told} times");
    drop(journal);
    let (_, recovered) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let mut seen: Vec<_> = recovered.map(|batch| batch.unwrap().records).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len() as u64, THREADS * EACH);
}

fn state_batch(records: &[u8]) -> Batch<'_> {
    Batch {
        kind: BatchKind::State,
        origin: SiteId(1),
        incarnation: Incarnation(1),
        lane: Lane::Normal,
        first_seq: Seq::ZERO,
        last_seq: Seq::ZERO,
        lane_bytes: 0,
        state: &[],
        records,
    }
}

#[test]
fn objects_are_flushed_after_the_target_is_taken_and_before_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = Journal::open(dir.path(), options(), Lsn::ZERO).unwrap();
    let journal = Arc::new(journal);
    let append = |journal: &Journal| journal.append(&state_batch(b"x")).unwrap().lsn;
    assert_eq!(append(&journal), Lsn(1));
    assert!(matches!(journal.wait_durable(Lsn(1)), Err(JournalError::NotStarted)));
    assert!(matches!(journal.wait_durable(Lsn(2)), Err(JournalError::NotAppended { .. })));
    let (inside, calls) = (Arc::downgrade(&journal), Arc::new(AtomicUsize::new(0)));
    let (seen, count) = (Arc::new(Mutex::new(Vec::new())), calls.clone());
    let log = seen.clone();
    // Without the background thread, so that only this test flushes.
    let hook: BeforeFlush = Box::new(move || {
        let journal = inside.upgrade().ok_or(io::ErrorKind::Other)?;
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            journal.append(&state_batch(b"appended while objects are flushed")).map_err(io::Error::other)?;
        }
        log.lock().push((journal.appended(), journal.durable()));
        Ok(())
    });
    assert!(journal.shared.before_flush.set(hook).is_ok());
    journal.wait_durable(Lsn(1)).unwrap();
    // The batch that came after the target was taken is not covered: its objects may have been flushed too early.
    assert_eq!(journal.durable(), Lsn(1));
    journal.wait_durable(Lsn(2)).unwrap();
    assert_eq!(*seen.lock(), [(Lsn(2), Lsn(0)), (Lsn(2), Lsn(1))]);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[test]
fn after_a_failed_flush_nothing_is_appended_or_durable_again() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = Journal::open(dir.path(), options(), Lsn::ZERO).unwrap();
    let fail = Arc::new(AtomicBool::new(false));
    let failing = fail.clone();
    journal
        .start(Box::new(
            move || {
                if failing.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
            },
        ))
        .unwrap();
    let first = journal.append(&state_batch(b"a")).unwrap();
    journal.wait_durable(first.lsn).unwrap();
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    fail.store(true, Ordering::SeqCst);
    let second = journal.append(&state_batch(b"b")).unwrap();
    assert!(journal.wait_durable(second.lsn).is_err());
    fail.store(false, Ordering::SeqCst);
    journal.on_progress(Box::new(move || tell.store(true, Ordering::SeqCst)));
    for _ in 0..3 {
        assert!(matches!(journal.append(&state_batch(b"c")), Err(JournalError::Poisoned { .. })));
        assert!(matches!(journal.wait_durable(second.lsn), Err(JournalError::Poisoned { .. })));
        assert!(matches!(journal.close(), Err(JournalError::Poisoned { .. })));
    }
    assert_eq!(journal.durable(), first.lsn);
    // What was durable can still be read.
    assert_eq!(journal.read_at(first.location).unwrap().records, &b"a"[..]);
}

#[test]
fn the_listener_is_told_of_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = Journal::open(dir.path(), options(), Lsn::ZERO).unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let tell = told.clone();
    journal.on_progress(Box::new(move || {
        tell.fetch_add(1, Ordering::SeqCst);
    }));
    journal.append(&state_batch(b"a")).unwrap();
    journal.start(Box::new(|| panic!("a hook that panics must not hang those who wait"))).unwrap();
    assert!(journal.wait_durable(Lsn(1)).is_err());
    until("told of the failure", || told.load(Ordering::SeqCst) >= 1);
}

#[test]
fn a_batch_out_of_order_or_too_large_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = started(dir.path(), Lsn::ZERO);
    let own = |incarnation, first, last| Batch {
        kind: BatchKind::Own,
        incarnation: Incarnation(incarnation),
        first_seq: Seq(first),
        last_seq: Seq(last),
        lane_bytes: 10 * last,
        ..state_batch(b"records")
    };
    journal.append(&own(1, 1, 3)).unwrap();
    for wrong in
        [own(1, 3, 4), own(1, 5, 5), own(2, 3, 4), own(0, 4, 4), own(1, 4, 3), Batch { lane_bytes: 5, ..own(1, 4, 4) }]
    {
        assert!(matches!(journal.append(&wrong), Err(JournalError::Sequence { head: Seq(3), .. })), "{wrong:?}");
    }
    let large = vec![0; 64 << 10];
    assert!(matches!(journal.append(&state_batch(&large)), Err(JournalError::TooLarge { .. })));
    // A new incarnation leaves out what peers know of the lost tail.
    assert_eq!(journal.append(&own(2, 7, 7)).unwrap().lsn, Lsn(2));
    journal.wait_durable(Lsn(2)).unwrap();
    let read = journal.read_lane(Lane::Normal, Seq(3), 1, ReadEnd::Durable).unwrap();
    assert_eq!((read[0].first_seq, read[0].incarnation), (Seq(7), Incarnation(2)));
}

#[test]
fn only_its_own_journal_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Journal::open(dir.path(), options(), Lsn::ZERO), Err(JournalError::Absent { .. })));
    Journal::create(dir.path(), options()).unwrap();
    assert!(matches!(Journal::create(dir.path(), options()), Err(JournalError::Exists { .. })));
    let other = JournalOptions { store_tag: TAG + 1, ..options() };
    assert!(matches!(Journal::open(dir.path(), other, Lsn::ZERO), Err(JournalError::Foreign { .. })));
    let small = JournalOptions { file_bytes: 4096, ..options() };
    assert!(matches!(Journal::open(dir.path(), small, Lsn::ZERO), Err(JournalError::FileTooSmall { .. })));
}

#[test]
fn files_of_another_size_are_used_up_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (mut model, mut random) = (Model::default(), Random(9));
    let mut checkpoint = Lsn::ZERO;
    for file_bytes in [64 << 10, 256 << 10, 40 << 10] {
        let (journal, recovered) =
            Journal::open(dir.path(), JournalOptions { file_bytes, ..options() }, checkpoint).unwrap();
        model.check_recovered(recovered, checkpoint, journal.durable());
        journal.start(Box::new(|| Ok(()))).unwrap();
        for _ in 0..200 {
            model.append(&journal, &mut random, 4_000).unwrap();
        }
        journal.wait_durable(journal.appended()).unwrap();
        for lane in Lane::ALL {
            model.check_lane(&journal, lane, Seq::ZERO, 100_000);
        }
        checkpoint = Lsn(journal.durable().0 - 50);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), seed: u64) {
        prop_assert_eq!(BatchHeader::decode(&bytes, seed, 0), None);
        prop_assert_eq!(footer::Points::decode(&bytes, Lsn(1), seed), None);
    }

    #[test]
    fn headers_survive_a_round_trip_and_no_other_place_or_use(
        lsn: u64, durable: u64, first: u64, last: u64, bytes: u64, lens: (u32, u32), seed: u64, offset in 0u64..1 << 40,
    ) {
        let header = BatchHeader {
            kind: BatchKind::Saved,
            lane: Lane::Bulk,
            origin: SiteId(7),
            incarnation: Incarnation(9),
            state_len: lens.0,
            records_len: lens.1,
            lsn: Lsn(lsn),
            durable_lsn: Lsn(durable),
            first_seq: Seq(first),
            last_seq: Seq(last),
            lane_bytes: bytes,
            state_sum: lsn ^ first,
            records_sum: lsn ^ last,
        };
        let encoded = header.encode(seed, offset);
        prop_assert_eq!(BatchHeader::decode(&encoded, seed, offset), Some(header));
        prop_assert_eq!(BatchHeader::decode(&encoded, seed, offset + 32), None);
        prop_assert_eq!(BatchHeader::decode(&encoded, seed ^ 1, offset), None);
    }
}
