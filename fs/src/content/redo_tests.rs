#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// The byte that the edit with this index writes; never zero.
fn mark(index: usize) -> u8 {
    index as u8 + 1
}

const CHECKPOINT: u8 = 0xee;

/// An object or the model of one: its bytes, holes as zeros.
type Content = Vec<u8>;

fn fill(content: &mut Content, range: Range<u64>, byte: u8) {
    let (start, end) = (range.start as usize, range.end as usize);
    if start < end {
        content.resize(content.len().max(end), 0);
        content[start..end].fill(byte);
    }
}

/// A hole within the length.
fn punch(content: &mut Content, range: Range<u64>) {
    let end = (range.end as usize).min(content.len());
    if (range.start as usize) < end {
        content[range.start as usize..end].fill(0);
    }
}

fn apply(content: &mut Content, edit: Edit<usize>, byte: u8) {
    match edit {
        Edit::Write { offset, len, .. } | Edit::Extent { offset, len } => fill(content, offset..offset + len, byte),
        Edit::Truncate { size } => content.resize(size as usize, 0),
        Edit::Punch { offset, len } => punch(content, offset..offset + len),
        Edit::Replace { size } => *content = vec![0; size as usize],
    }
}

/// How much of an effect reached the object.
#[derive(Clone, Copy, Debug)]
enum Reached {
    Not,
    Whole,
    /// Of a write or a hole only the bytes from the first to the second sixteenth.
    Torn(u64, u64),
}

fn apply_some(content: &mut Content, edit: Edit<usize>, byte: u8, reached: Reached) {
    let part = |offset: u64, len: u64, from: u64, to: u64| (offset + len * from / 16, len * to / 16 - len * from / 16);
    match (reached, edit) {
        (Reached::Not, _) => {}
        (Reached::Torn(from, to), Edit::Write { offset, len, source }) => {
            let (offset, len) = part(offset, len, from, to);
            apply(content, Edit::Write { offset, len, source }, byte);
        }
        (Reached::Torn(from, to), Edit::Extent { offset, len }) => {
            let (offset, len) = part(offset, len, from, to);
            apply(content, Edit::Extent { offset, len }, byte);
        }
        (Reached::Torn(from, to), Edit::Punch { offset, len }) => {
            let (offset, len) = part(offset, len, from, to);
            apply(content, Edit::Punch { offset, len }, byte);
        }
        (Reached::Torn(..) | Reached::Whole, _) => apply(content, edit, byte),
    }
}

/// Carries out the first `steps` steps of a plan, in the order of `redo_run`.
fn run(plan: &Plan<usize>, content: &mut Content, steps: usize) {
    if steps > 0 && !plan.steps.is_empty() {
        content.resize(plan.work_len as usize, 0);
    }
    for step in plan.steps.iter().take(steps) {
        match step {
            Step::Punch(hole) => punch(content, hole.clone()),
            Step::Write(write) => fill(content, write.offset..write.offset + write.len, mark(write.source)),
        }
    }
    if steps > plan.steps.len() {
        content.resize(plan.size as usize, 0);
    }
}

/// Raw choices, made into valid edits by [`edits_of`]: kind, two numbers.
fn choices() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
    prop::collection::vec((0u8..8, 0u64..64, 0u64..24), 1..24)
}

fn edits_of(choices: &[(u8, u64, u64)], mut size: u64) -> Vec<Edit<usize>> {
    let mut edits = Vec::new();
    for (source, (kind, a, b)) in choices.iter().copied().enumerate() {
        let edit = match kind {
            0..=2 => Edit::Write { offset: a, len: b, source },
            // Rule 3: at or beyond the size.
            3 | 4 => Edit::Extent { offset: size + a % 4, len: b },
            5 => Edit::Truncate { size: a },
            6 => Edit::Punch { offset: a, len: b },
            _ => Edit::Replace { size: a },
        };
        size = size_after(size, [edit]);
        edits.push(edit);
    }
    edits
}

fn reached() -> impl Strategy<Value = Reached> {
    prop_oneof![
        Just(Reached::Not),
        Just(Reached::Whole),
        (0u64..=16, 0u64..=16).prop_map(|(a, b)| Reached::Torn(a.min(b), a.max(b)))
    ]
}

fn after<'a>(checkpoint: &Content, edits: impl Iterator<Item = (usize, &'a Edit<usize>)>) -> Content {
    let mut content = checkpoint.clone();
    edits.for_each(|(index, edit)| apply(&mut content, *edit, mark(index)));
    content
}

fn assert_recovers(checkpoint: &Content, journalled: &[Edit<usize>], mut object: Content, stops: &[usize]) {
    let expected = after(checkpoint, journalled.iter().enumerate());
    let size = size_after(checkpoint.len() as u64, journalled.iter().copied());
    assert_eq!(size, expected.len() as u64);
    let least = least_len(checkpoint.len() as u64, journalled.iter().copied());
    assert!(
        object.len() as u64 >= least,
        "{object:?} after {journalled:?} is taken for one that a lost edit cut to below {least}"
    );
    let plan = plan(journalled.iter().copied(), size);
    for stop in stops.iter().chain(&[usize::MAX, usize::MAX]) {
        assert!(object.len() as u64 >= plan.min_len, "{plan:?} takes {object:?} for damaged");
        run(&plan, &mut object, *stop);
        if *stop == usize::MAX {
            assert_eq!(object, expected, "after {journalled:?} with {plan:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// `kill -9`: the effects are a prefix, all up to the last journalled extent at least.
    #[test]
    fn recovers_from_every_prefix(checkpoint_len in 0usize..64, choices in choices(), stops in prop::collection::vec(0usize..8, 0..3)) {
        let checkpoint = vec![CHECKPOINT; checkpoint_len];
        let edits = edits_of(&choices, checkpoint_len as u64);
        for journalled in 0..=edits.len() {
            let extents = edits[..journalled].iter().rposition(|edit| matches!(edit, Edit::Extent { .. }));
            for applied in extents.map_or(0, |last| last + 1)..=journalled {
                let object = after(&checkpoint, edits[..applied].iter().enumerate());
                assert_recovers(&checkpoint, &edits[..journalled], object.clone(), &stops);
                // The next extent, written but not journalled.
                if let (true, Some(next @ Edit::Extent { .. })) = (applied == journalled, edits.get(applied)) {
                    let mut object = object;
                    apply(&mut object, *next, mark(applied));
                    assert_recovers(&checkpoint, &edits[..journalled], object, &stops);
                }
            }
        }
    }

    /// Power loss: after the last journalled extent any effects reached the disk, some of them torn.
    #[test]
    fn recovers_from_every_subset(
        checkpoint_len in 0usize..64,
        choices in choices(),
        journalled in any::<prop::sample::Index>(),
        reached in prop::collection::vec(reached(), 24),
        stops in prop::collection::vec(0usize..8, 0..3),
    ) {
        let checkpoint = vec![CHECKPOINT; checkpoint_len];
        let edits = edits_of(&choices, checkpoint_len as u64);
        let journalled = journalled.index(edits.len() + 1);
        let sure = edits[..journalled].iter().rposition(|edit| matches!(edit, Edit::Extent { .. })).map_or(0, |last| last + 1);
        let mut object = after(&checkpoint, edits[..sure].iter().enumerate());
        for index in sure..journalled {
            apply_some(&mut object, edits[index], mark(index), reached[index]);
        }
        if let Some(next @ Edit::Extent { .. }) = edits.get(journalled) {
            apply_some(&mut object, *next, mark(journalled), reached[journalled]);
        }
        assert_recovers(&checkpoint, &edits[..journalled], object, &stops);
    }

    /// No step touches what is beyond the end, and each does something.
    #[test]
    fn steps_stay_within_the_file(checkpoint_len in 0u64..64, choices in choices()) {
        let edits = edits_of(&choices, checkpoint_len);
        let plan = plan(edits.iter().copied(), size_after(checkpoint_len, edits.iter().copied()));
        for step in &plan.steps {
            let range = match step {
                Step::Punch(hole) => hole.clone(),
                Step::Write(write) => write.offset..write.offset + write.len,
            };
            prop_assert!(!range.is_empty() && range.end <= plan.work_len);
        }
    }
}

#[test]
fn a_growing_file_of_extents_needs_nothing() {
    let edits = (0..100).map(|n| Edit::<()>::Extent { offset: n * 10, len: 10 });
    let plan = plan(edits.collect::<Vec<_>>(), 1000);
    assert_eq!(plan, Plan { size: 1000, work_len: 1000 + MARGIN_BYTES, steps: vec![], min_len: 1000 });
}

#[test]
fn older_edits_leave_newer_extents_alone() {
    let edits = [
        Edit::Write { offset: 0, len: 100, source: 'a' },
        Edit::Write { offset: 10, len: 10, source: 'b' },
        Edit::Truncate { size: 50 },
        Edit::Extent { offset: 60, len: 10 },
    ];
    let plan = plan(edits, 70);
    let write = |offset, source, source_offset, len| Step::Write(Rewrite { offset, source, source_offset, len });
    let written = [write(70, 'a', 70, 30), write(0, 'a', 0, 60), write(10, 'b', 0, 10)];
    let punched = [Step::Punch(70..70 + MARGIN_BYTES), Step::Punch(50..60)];
    assert_eq!(plan.steps, [&written[..], &punched].concat());
    assert_eq!(plan.min_len, 70);
}

#[test]
fn offsets_at_the_end_of_u64_do_not_overflow() {
    let edits = [Edit::Punch { offset: u64::MAX - 1, len: 5 }, Edit::Write { offset: u64::MAX, len: 5, source: () }];
    assert_eq!(size_after(0, edits), u64::MAX);
    assert_eq!(plan(edits, 10).steps, [], "beyond what is of interest");
}
