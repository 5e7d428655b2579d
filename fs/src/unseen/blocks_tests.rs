use proptest::prelude::*;

use super::*;

const MOST: usize = 3 * BLOCK_BYTES as usize;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize, u8),
    Extent(usize, usize, u8),
    Truncate(usize),
    Punch(usize, usize),
    Replace(usize),
    /// A mapping's, at a part in a thousand of the file.
    Store(usize, u8),
    Look,
}

fn place() -> impl Strategy<Value = usize> {
    let edge = (0..4_usize, 0..3_usize).prop_map(|(block, by)| (block * BLOCK_BYTES as usize + by).saturating_sub(1));
    prop_oneof![0..MOST, edge]
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1..10_usize, 1..2 * BLOCK_BYTES as usize];
    prop_oneof![
        (place(), len.clone(), 1..=255_u8).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
        (0..1000_usize, len.clone(), 1..=255_u8).prop_map(|(gap, len, byte)| Step::Extent(gap, len, byte)),
        place().prop_map(Step::Truncate),
        (place(), len).prop_map(|(at, len)| Step::Punch(at, len)),
        place().prop_map(Step::Replace),
        (0..1000_usize, 1..=255_u8).prop_map(|(at, byte)| Step::Store(at, byte)),
        Just(Step::Look),
    ]
}

fn at(content: &[u8], offset: u64, len: u64) -> Vec<u8> {
    let from = (offset as usize).min(content.len());
    content[from..(from + len as usize).min(content.len())].to_vec()
}

/// Whose zeros are holes.
struct Content<'a>(&'a [u8]);

impl Bytes for Content<'_> {
    type Error = std::convert::Infallible;

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Self::Error> {
        Ok(at(self.0, offset, len))
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, Self::Error> {
        let from = (offset as usize).min(self.0.len());
        Ok(self.0[from..].iter().position(|byte| *byte != 0).map(|more| (from + more) as u64))
    }
}

fn put(content: &mut Vec<u8>, at: usize, len: usize, byte: u8) {
    content.resize(content.len().max(at + len), 0);
    content[at..at + len].fill(byte);
}

/// The blocks that differ from what is journalled.
fn look(blocks: &mut Blocks, content: &[u8]) -> Vec<u64> {
    let mut differing = Vec::new();
    let mut differs = |offset, bytes: Vec<u8>| {
        assert_eq!(bytes, at(content, offset, BLOCK_BYTES));
        differing.push(index_of(offset));
        Ok(())
    };
    let mut from = Some(0);
    while let Some(next) = from {
        let taken = blocks.take(content.len() as u64, (next, 2), &Content(content), &mut differs);
        from = taken.unwrap_or_else(|error| match error {});
    }
    differing
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A look finds every block that a mapping changed, and none that only the daemon did.
    #[test]
    fn what_the_daemon_changes_is_known_and_what_a_mapping_stores_is_found(steps in prop::collection::vec(step(), 1..30)) {
        // `journalled` is what the peers get: the daemon's changes, and the blocks that looks find.
        let (mut blocks, mut content, mut journalled) = (Blocks::empty(), Vec::new(), Vec::new());
        let mut stored = false;
        for step in steps {
            let before = content.clone();
            let follow = |blocks: &mut Blocks, change: Change<'_>, there: &[u8]| {
                blocks.follow(change, |offset, len| Ok(at(there, offset, len))).expect("no error");
            };
            match step {
                Step::Write(offset, len, byte) => {
                    follow(&mut blocks, Change::Write { offset: offset as u64, bytes: &vec![byte; len] }, &before);
                    put(&mut content, offset, len, byte);
                    put(&mut journalled, offset, len, byte);
                }
                Step::Extent(gap, len, byte) => {
                    let offset = content.len() + gap;
                    put(&mut content, offset, len, byte);
                    follow(&mut blocks, Change::Extent { offset: offset as u64, len: len as u64 }, &content);
                    put(&mut journalled, offset, len, byte);
                }
                Step::Truncate(size) => {
                    follow(&mut blocks, Change::Truncate { size: size as u64 }, &before);
                    content.resize(size, 0);
                    journalled.resize(size, 0);
                }
                Step::Punch(offset, len) => {
                    let (from, end) = (offset.min(content.len()), (offset + len).min(content.len()));
                    follow(&mut blocks, Change::Punch { offset: from as u64, len: (end - from) as u64 }, &before);
                    content[from..end].fill(0);
                    journalled[from..end].fill(0);
                }
                Step::Replace(size) => {
                    follow(&mut blocks, Change::Replace { size: size as u64 }, &before);
                    content = vec![0; size];
                    journalled = vec![0; size];
                    stored = false;
                }
                Step::Store(part, byte) => {
                    let offset = content.len() * part / 1000;
                    if let Some(there) = content.get_mut(offset) {
                        *there = byte;
                        stored = true;
                    }
                }
                Step::Look => {
                    let found = look(&mut blocks, &content);
                    prop_assert!(stored || found.is_empty(), "{:?} were only the daemon's", found);
                    for index in found {
                        let range = block(index, content.len() as u64);
                        let range = range.start as usize..range.end as usize;
                        journalled[range.clone()].copy_from_slice(&content[range]);
                    }
                    prop_assert_eq!(&journalled, &content);
                    stored = false;
                }
            }
        }
    }
}
