//! Sets of byte ranges.
//!
//! Invariant: the stored ranges are not empty, don't overlap and don't touch; so each set has one representation, and equal
//! sets compare equal.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::ops::Range;

/// A set of `u64`, kept as half-open ranges. `u64::MAX` itself can't be a member.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds every member of `range`. An empty range adds nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Swallow, from the back, every range that overlaps or touches the new one.
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.ranges.remove(&s);
        }
        self.ranges.insert(start, end);
    }

    /// Takes every member of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.ranges.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.ranges.remove(&s);
            if e > range.end {
                self.ranges.insert(range.end, e);
            }
            if s < range.start {
                self.ranges.insert(s, range.start);
            }
        }
    }

    /// Whether any member is in `range`.
    pub fn overlaps(&self, range: Range<u64>) -> bool {
        self.intersections(range).next().is_some()
    }

    /// The parts of `range` that are in the set, ascending.
    pub fn intersections(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let before = self.ranges.range(..=range.start).next_back().filter(|(_, end)| **end > range.start);
        let from = before.map_or(range.start, |(start, _)| *start);
        self.ranges
            .range(from..range.end.max(from))
            .map(move |(start, end)| (*start).max(range.start)..(*end).min(range.end))
            .filter(|piece| !piece.is_empty())
    }

    /// The parts of `range` that are not in the set, ascending.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let Range { start: mut at, end } = range;
        self.intersections(range).chain(iter::once(end..end)).filter_map(move |piece| {
            let gap = at..piece.start;
            at = piece.end;
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// All ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The number of members.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl From<Range<u64>> for RangeSet {
    fn from(range: Range<u64>) -> Self {
        let mut set = Self::new();
        set.insert(range);
        set
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDTH: u64 = 64;

    /// The maximal runs of `wanted` in `range` of a bitmap.
    fn runs(bitmap: &[bool], range: Range<u64>, wanted: bool) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for at in range.filter(|at| bitmap[*at as usize] == wanted) {
            match runs.last_mut() {
                Some(last) if last.end == at => last.end = at + 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs
    }

    fn any_range() -> impl Strategy<Value = Range<u64>> {
        // Also empty and backwards ones: both mean "nothing".
        (0..=WIDTH, 0..=WIDTH).prop_map(|(start, end)| start..end)
    }

    proptest! {
        #[test]
        fn behaves_as_a_bitmap(
            edits in prop::collection::vec((any::<bool>(), any_range()), 0..40),
            ask in any_range(),
        ) {
            let mut set = RangeSet::new();
            let mut bitmap = vec![false; WIDTH as usize];
            for (insert, range) in edits {
                if insert { set.insert(range.clone()) } else { set.remove(range.clone()) }
                range.for_each(|at| bitmap[at as usize] = insert);
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), runs(&bitmap, 0..WIDTH, true));
                prop_assert_eq!(set.total(), bitmap.iter().filter(|bit| **bit).count() as u64);
                prop_assert_eq!(set.is_empty(), !bitmap.contains(&true));
                prop_assert_eq!(set.intersections(ask.clone()).collect::<Vec<_>>(), runs(&bitmap, ask.clone(), true));
                prop_assert_eq!(set.gaps(ask.clone()).collect::<Vec<_>>(), runs(&bitmap, ask.clone(), false));
                prop_assert_eq!(set.overlaps(ask.clone()), ask.clone().any(|at| bitmap[at as usize]));
            }
        }
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let set = RangeSet::from_iter([0..5, 10..15, 5..10]);
        assert_eq!(set, RangeSet::from(0..15));
    }

    #[test]
    fn reaches_to_the_end_of_u64() {
        let mut set = RangeSet::from(10..u64::MAX);
        set.remove(20..u64::MAX);
        assert_eq!(set, RangeSet::from(10..20));
        assert_eq!(set.gaps(0..u64::MAX).collect::<Vec<_>>(), vec![0..10, 20..u64::MAX]);
    }
}
