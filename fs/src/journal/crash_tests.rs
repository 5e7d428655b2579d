//! Crashes: kill, power loss, damage, at random places. Each run prints its seed, which replays it.

use proto::ids::{Lane, Seq};

use super::testing::*;
use super::*;

/// Appends, flushes, recycles and crashes at random, many times over on one store.
fn crash_run(seed: u64) {
    println!("seed {seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let mut model = Model::default();
    let (mut checkpoint, mut durable) = (Lsn::ZERO, Lsn::ZERO);
    for _ in 0..8 {
        let (journal, recovered) = open_still(dir.path(), checkpoint).unwrap();
        model.check_recovered(recovered, checkpoint, durable);
        model.check_heads(&journal);
        // What recovery wrote, it made durable; what it found is durable as far as it was.
        let mut flushed = image(dir.path());
        for _ in 0..random.below(120) {
            match random.below(20) {
                0 => {
                    journal.wait_durable(journal.appended()).unwrap();
                    durable = journal.durable();
                    if durable > Lsn::ZERO {
                        journal.check_synced(durable > checkpoint);
                    }
                    flushed = image(dir.path());
                }
                1 => {
                    checkpoint = Lsn(checkpoint.0 + random.below(journal.durable().0 - checkpoint.0 + 1));
                    journal.set_checkpoint(checkpoint);
                    for lane in Lane::ALL {
                        let acknowledged = random.below(journal.durable_lane_head(lane).seq.0 + 1);
                        journal.set_watermark(lane, Seq(acknowledged));
                    }
                    journal.upkeep_now();
                    journal.check_synced(false);
                    // What upkeep touched, it made durable, and nothing else.
                    let now = image(dir.path());
                    for file in journal.files().iter().filter(|file| file.used == FileUse::Spare) {
                        flushed.insert(file.path.clone(), now[&file.path].clone());
                    }
                }
                _ => {
                    let max = if random.chance(10) { 20_000 } else { 2_000 };
                    model.append(&journal, &mut random, max).unwrap();
                }
            }
        }
        let appended = journal.appended();
        drop(journal);
        if random.chance(30) {
            // Killed: all that was written is there.
            let (_, recovered) = open_still(dir.path(), checkpoint).unwrap();
            assert_eq!((recovered.head(), recovered.torn_bytes()), (appended, 0));
        } else {
            restore(dir.path(), &lose_power(&flushed, &image(dir.path()), &mut random));
            if random.chance(50) {
                // The power goes again while recovery is cutting, or just after: it must come to the same end.
                let before = image(dir.path());
                let (_, recovered) = open_still(dir.path(), checkpoint).unwrap();
                let head = recovered.head();
                restore(dir.path(), &lose_power(&before, &image(dir.path()), &mut random));
                let (_, recovered) = open_still(dir.path(), checkpoint).unwrap();
                assert_eq!(recovered.head(), head);
            }
        }
    }
}

#[test]
fn whatever_is_durable_survives_and_nothing_torn_appears() {
    for seed in 0..60 {
        crash_run(seed);
    }
}

/// A journal of several files with `durable` batches flushed in groups, and one batch behind them that is not.
fn durable_and_tail(dir: &Path, random: &mut Random) -> (Model, Lsn) {
    Journal::create(dir, options()).unwrap();
    let (journal, _) = open_still(dir, Lsn::ZERO).unwrap();
    let mut model = Model::default();
    for _ in 0..100 {
        model.append(&journal, random, 4_000).unwrap();
        if random.chance(30) {
            journal.wait_durable(journal.appended()).unwrap();
        }
    }
    journal.wait_durable(journal.appended()).unwrap();
    let durable = journal.durable();
    model.append(&journal, random, 4_000).unwrap();
    (model, durable)
}

#[test]
fn a_flipped_byte_is_reported_if_durable_and_cut_if_not() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        let (model, durable) = durable_and_tail(dir.path(), &mut random);
        let intact = image(dir.path());
        let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
        let places: Vec<(PathBuf, u64)> = model
            .kept
            .iter()
            .map(|kept| {
                let writer = journal.shared.writer.lock();
                let live = writer.sealed.iter().map(|sealed| &sealed.live).chain([&writer.active.live]);
                let file = live.into_iter().find(|live| live.header.generation == kept.location.generation).unwrap();
                (file.on_disk.path.clone(), kept.location.offset)
            })
            .collect();
        drop(journal);
        for _ in 0..120 {
            let index = if random.chance(10) { model.kept.len() - 1 } else { random.below(durable.0) as usize };
            let kept = &model.kept[index];
            let (path, offset) = &places[index];
            let at = offset + random.below((88 + kept.state.len() + kept.records.len()) as u64);
            let mut spoilt = intact.clone();
            spoilt.get_mut(path).unwrap()[at as usize] ^= 1 << random.below(8);
            restore(dir.path(), &spoilt);
            match open_still(dir.path(), Lsn::ZERO) {
                Err(JournalError::Damaged { file, offset: found, lsn }) => {
                    assert!(kept.lsn <= durable, "batch {} was not durable", kept.lsn);
                    assert_eq!((&file, found, lsn), (path, *offset, kept.lsn));
                    assert!(image(dir.path()) == spoilt, "damage must not be touched");
                }
                Ok((_, recovered)) => {
                    assert!(kept.lsn > durable, "batch {} was durable, the flip at {at} of it unseen", kept.lsn);
                    model.clone().check_recovered(recovered, Lsn::ZERO, durable);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn damage_to_the_very_last_batch_is_seen_after_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let (mut model, mut random) = (Model::default(), Random(1));
    for _ in 0..5 {
        model.append(&journal, &mut random, 100).unwrap();
    }
    journal.close().unwrap();
    assert!(matches!(model.append(&journal, &mut random, 100), Err(JournalError::Closed)));
    let path = journal.files()[0].path.clone();
    drop(journal);
    let mut spoilt = image(dir.path());
    spoilt.get_mut(&path).unwrap()[model.kept[4].location.offset as usize + 20] ^= 1;
    restore(dir.path(), &spoilt);
    assert!(matches!(open_still(dir.path(), Lsn::ZERO), Err(JournalError::Damaged { lsn: Lsn(5), .. })));
}

#[test]
fn what_was_cut_never_comes_back() {
    // Batches 3 to 6 were not flushed; a power loss takes 3 and keeps the rest. New batches of the same length then stand
    // exactly where the old ones stood.
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let mut model = Model::default();
    let append = |model: &mut Model, journal: &Journal, byte: u8| {
        model.append_this(journal, BatchKind::Own, Lane::Normal, 1, Vec::new(), vec![byte; 5000]).unwrap()
    };
    append(&mut model, &journal, 1);
    append(&mut model, &journal, 2);
    journal.wait_durable(Lsn(2)).unwrap();
    for byte in 3..=6 {
        append(&mut model, &journal, byte);
    }
    let path = journal.files()[0].path.clone();
    drop(journal);
    let mut left = image(dir.path());
    left.get_mut(&path).unwrap()[model.kept[2].location.offset as usize..][..512].fill(0);
    restore(dir.path(), &left);

    let (journal, recovered) = open_still(dir.path(), Lsn::ZERO).unwrap();
    assert_eq!(recovered.cut().map(|cut| (cut.lsn, cut.offset)), Some((Lsn(3), model.kept[2].location.offset)));
    model.check_recovered(recovered, Lsn::ZERO, Lsn(2));
    append(&mut model, &journal, 7);
    assert_eq!(model.kept.len(), 3);
    drop(journal);
    let (_, recovered) = open_still(dir.path(), Lsn::ZERO).unwrap();
    assert_eq!(recovered.cut(), None);
    assert_eq!(recovered.head(), Lsn(3));
    model.check_recovered(recovered, Lsn::ZERO, Lsn(3));
}

#[test]
fn batches_of_a_use_whose_header_was_lost_never_come_back() {
    // The second file is begun, not flushed; a power loss takes its header and keeps its batches. Its generation is not known then and is
    // given again, and new batches of the same length follow.
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    journal.upkeep_now();
    let second = journal.files().last().unwrap().path.clone();
    let mut model = Model::default();
    let append = |model: &mut Model, journal: &Journal, byte: u8| {
        let appended =
            model.append_this(journal, BatchKind::Own, Lane::Normal, 1, Vec::new(), vec![byte; 9000]).unwrap();
        (appended.lsn, appended.location)
    };
    let spare = image(dir.path());
    let (first, place) = loop {
        let (lsn, location) = append(&mut model, &journal, 1);
        if location.generation == 2 {
            break (lsn, location);
        }
    };
    for _ in 0..3 {
        append(&mut model, &journal, 2);
    }
    drop(journal);
    let mut left = image(dir.path());
    for block in [0..512, 4096..4608] {
        left.get_mut(&second).unwrap()[block.clone()].copy_from_slice(&spare[&second][block]);
    }
    restore(dir.path(), &left);

    let (journal, recovered) = open_still(dir.path(), Lsn::ZERO).unwrap();
    assert_eq!(recovered.head(), first.previous());
    model.check_recovered(recovered, Lsn::ZERO, Lsn::ZERO);
    assert_eq!(append(&mut model, &journal, 3), (first, place));
    assert_eq!(journal.files().iter().find(|file| file.used == FileUse::Active).unwrap().path, second);
    drop(journal);
    let (_, recovered) = open_still(dir.path(), Lsn::ZERO).unwrap();
    assert_eq!(recovered.head(), first);
    model.check_recovered(recovered, Lsn::ZERO, first);
}

#[test]
fn a_missing_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (_, durable) = durable_and_tail(dir.path(), &mut Random(3));
    let intact = image(dir.path());
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let files = journal.files();
    drop(journal);
    let sealed: Vec<_> = files.iter().filter(|file| file.used == FileUse::Sealed).collect();
    assert!(sealed.len() >= 2);
    for file in sealed {
        for checkpoint in [Lsn::ZERO, durable] {
            restore(dir.path(), &intact);
            fs::remove_file(&file.path).unwrap();
            let opened = open_still(dir.path(), checkpoint);
            if checkpoint == durable && file.path == files[0].path {
                // The oldest file may be gone once it is folded in: its readers are told.
                let (journal, _) = opened.unwrap();
                assert!(Lane::ALL.into_iter().any(|lane| {
                    matches!(journal.read_lane(lane, Seq::ZERO, 1, ReadEnd::Durable), Err(ReadError::Truncated { .. }))
                }));
            } else {
                assert!(matches!(opened, Err(JournalError::Damaged { .. })), "without {}", file.path.display());
            }
        }
    }
}

#[test]
fn either_copy_of_a_header_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (model, durable) = durable_and_tail(dir.path(), &mut Random(4));
    let intact = image(dir.path());
    for path in intact.keys() {
        for at in [10, 4096 + 10] {
            let mut spoilt = intact.clone();
            spoilt.get_mut(path).unwrap()[at] ^= 1;
            restore(dir.path(), &spoilt);
            let (_, recovered) = open_still(dir.path(), Lsn::ZERO).unwrap();
            assert_eq!(recovered.head(), durable.next());
            model.clone().check_recovered(recovered, Lsn::ZERO, durable);
        }
        let mut spoilt = intact.clone();
        for at in [10, 4096 + 10] {
            spoilt.get_mut(path).unwrap()[at] ^= 1;
        }
        restore(dir.path(), &spoilt);
        assert!(matches!(open_still(dir.path(), Lsn::ZERO), Err(JournalError::DamagedHeader { .. })));
    }
}

#[test]
fn a_full_file_stays_until_the_next_one_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    Journal::create(dir.path(), options()).unwrap();
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    journal.upkeep_now();
    let (mut model, mut random) = (Model::default(), Random(1));
    while journal.files()[0].used == FileUse::Active {
        journal.wait_durable(journal.appended()).unwrap();
        model.append(&journal, &mut random, 4_000).unwrap();
    }
    let full = journal.files()[0].clone();
    assert_eq!(full.lsns.unwrap().1, journal.durable());
    journal.set_checkpoint(journal.durable());
    for lane in Lane::ALL {
        journal.set_watermark(lane, Seq(u64::MAX));
    }
    journal.upkeep_now();
    assert_eq!(journal.files()[0], full);
    journal.wait_durable(journal.appended()).unwrap();
    journal.upkeep_now();
    assert_eq!(journal.files()[0].used, FileUse::Active);
}

#[test]
fn recycling_may_stop_at_any_step() {
    let dir = tempfile::tempdir().unwrap();
    let (mut model, durable) = durable_and_tail(dir.path(), &mut Random(6));
    let intact = image(dir.path());
    let (journal, _) = open_still(dir.path(), Lsn::ZERO).unwrap();
    let files = journal.files();
    drop(journal);
    let sealed: Vec<_> = files.iter().filter(|file| file.used == FileUse::Sealed).collect();
    assert!(sealed.len() >= 3);
    let mut image_now = intact;
    for (index, file) in sealed.iter().enumerate() {
        let live = image_now[&file.path].clone();
        restore(dir.path(), &image_now);
        file::JournalFile::open(file.path.clone()).unwrap().retire(TAG, 1).unwrap();
        let spare = fs::read(&file.path).unwrap();
        let torn = [0xaa; 512];
        let copies: [(&[u8], &[u8]); 6] = [
            (&live[..512], &spare[4096..4608]),
            (&spare[..512], &live[4096..4608]),
            (&torn, &live[4096..4608]),
            (&spare[..512], &torn),
            (&torn, &spare[4096..4608]),
            (&spare[..512], &spare[4096..4608]),
        ];
        for (number, (first, second)) in copies.into_iter().enumerate() {
            let mut bytes = live.clone();
            bytes[..512].copy_from_slice(first);
            bytes[4096..4608].copy_from_slice(second);
            image_now.insert(file.path.clone(), bytes);
            restore(dir.path(), &image_now);
            let (journal, recovered) = open_still(dir.path(), durable).unwrap();
            assert_eq!(recovered.head(), durable.next());
            // As long as one copy says so, the file is still part of the journal, whole.
            let oldest = sealed.get(index + usize::from(number >= 3)).copied().unwrap_or(&files[sealed.len()]);
            assert_eq!(journal.files()[0].lsns, oldest.lsns);
            for lane in Lane::ALL {
                let floor = journal.shared.writer.lock().oldest().header.heads.get(lane).seq;
                model.check_lane(&journal, lane, floor, 10_000);
            }
        }
    }
    // And it goes on from there.
    let (journal, _) = open_still(dir.path(), durable).unwrap();
    for _ in 0..100 {
        model.append(&journal, &mut Random(7), 4_000).unwrap();
    }
    journal.wait_durable(journal.appended()).unwrap();
    drop(journal);
    let (_, recovered) = open_still(dir.path(), durable).unwrap();
    let head = recovered.head();
    model.check_recovered(recovered, durable, head);
    assert_eq!(head.0, durable.0 + 101);
}

#[test]
fn an_older_journal_than_the_checkpoint_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = durable_and_tail(dir.path(), &mut Random(5));
    let beyond = Lsn(model.kept.len() as u64 + 1);
    assert!(matches!(open_still(dir.path(), beyond), Err(JournalError::Damaged { lsn, .. }) if lsn == beyond));
}
