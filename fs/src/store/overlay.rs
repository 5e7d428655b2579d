//! The rows that redb does not have yet, in front of it.
//!
//! Batches go into the *active* generation. To fold, the active one is frozen and a new one begun; when redb has the frozen rows
//! durably, it is dropped in the same instant in which readers change to the new snapshot. A reader takes the lock once, so it
//! never misses a row between the two.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use super::batch::Put;
use super::db::{DbError, Snapshot};
use super::table::{Key, Table, Value};

/// Rows set or deleted between two freezes.
#[derive(Clone, Default)]
pub struct Generation {
    tables: [BTreeMap<Key, Option<Value>>; Table::ALL.len()],
    bytes: usize,
}

/// What a row costs in memory besides its key and value, roughly.
const ROW_OVERHEAD_BYTES: usize = 128;

impl Generation {
    fn put(&mut self, put: Put) {
        let len = put.key.len() + put.value.as_ref().map_or(0, Value::len);
        // A row that is set again costs its new length again: an upper bound is all that is needed.
        self.bytes += len;
        if self.tables[put.table.index()].insert(put.key, put.value).is_none() {
            self.bytes += ROW_OVERHEAD_BYTES;
        }
    }

    fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Value>> {
        self.tables[table.index()].get(key)
    }

    fn range(&self, table: Table, prefix: &[u8], after: Option<&[u8]>) -> impl Iterator<Item = (&Key, &Option<Value>)> {
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let prefix = prefix.to_vec();
        self.tables[table.index()]
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(&prefix))
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (Table, &Key, &Option<Value>)> {
        Table::ALL
            .into_iter()
            .flat_map(|table| self.tables[table.index()].iter().map(move |(key, value)| (table, key, value)))
    }

    /// Memory that the rows take, at most.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Layers {
    active: Generation,
    frozen: Option<Arc<Generation>>,
    folded: Arc<Snapshot>,
}

/// All rows: what is in front of redb, and redb behind it.
pub struct Overlay {
    layers: RwLock<Layers>,
    /// Rows in front that scans have passed.
    #[cfg(test)]
    pub(crate) passed: std::sync::atomic::AtomicU64,
}

/// All rows at one instant.
pub struct View {
    active: Generation,
    frozen: Option<Arc<Generation>>,
    folded: Arc<Snapshot>,
}

impl Overlay {
    /// Nothing in front of what redb has.
    pub fn new(folded: Snapshot) -> Self {
        let layers = Layers { active: Generation::default(), frozen: None, folded: Arc::new(folded) };
        Self {
            layers: RwLock::new(layers),
            #[cfg(test)]
            passed: Default::default(),
        }
    }

    /// One row.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, DbError> {
        let layers = self.layers.read();
        let in_front = layers.active.get(table, key);
        let in_front = in_front.or_else(|| layers.frozen.as_ref().and_then(|frozen| frozen.get(table, key)));
        if let Some(value) = in_front {
            return Ok(value.clone());
        }
        let folded = Arc::clone(&layers.folded);
        drop(layers);
        folded.get(table, key)
    }

    /// Rows whose key begins with `prefix` and is above `after`, in order, `limit` at most.
    pub fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Value)>, DbError> {
        let (in_front, folded) = {
            let layers = self.layers.read();
            let in_front = in_front(&layers.active, layers.frozen.as_deref(), table, prefix, after, limit);
            #[cfg(test)]
            self.passed.fetch_add(in_front.len() as u64, std::sync::atomic::Ordering::Relaxed);
            (in_front, Arc::clone(&layers.folded))
        };
        merge(in_front, &folded, table, prefix, after, limit)
    }

    /// Makes a batch visible, whole.
    pub fn publish(&self, puts: Vec<Put>) {
        let mut layers = self.layers.write();
        for put in puts {
            layers.active.put(put);
        }
    }

    /// Memory that the rows in front take, at most.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.read();
        layers.active.bytes() + layers.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
    }

    /// Freezes the active generation and returns it; the one still frozen after a fold that failed is joined to it.
    pub fn freeze(&self) -> Arc<Generation> {
        let mut layers = self.layers.write();
        let active = std::mem::take(&mut layers.active);
        let frozen = match layers.frozen.take() {
            None => Arc::new(active),
            Some(mut frozen) => {
                let joined = Arc::make_mut(&mut frozen);
                for (table, key, value) in active.rows() {
                    joined.put(Put { table, key: key.clone(), value: value.clone() });
                }
                frozen
            }
        };
        layers.frozen = Some(Arc::clone(&frozen));
        frozen
    }

    /// redb has the frozen rows: reads go to it from now on.
    pub fn folded(&self, snapshot: Snapshot) {
        let mut layers = self.layers.write();
        layers.frozen = None;
        layers.folded = Arc::new(snapshot);
    }

    /// All rows as of now.
    pub fn view(&self) -> View {
        let layers = self.layers.read();
        View { active: layers.active.clone(), frozen: layers.frozen.clone(), folded: Arc::clone(&layers.folded) }
    }
}

impl View {
    /// One row.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, DbError> {
        let in_front = self.active.get(table, key);
        match in_front.or_else(|| self.frozen.as_ref().and_then(|frozen| frozen.get(table, key))) {
            Some(value) => Ok(value.clone()),
            None => self.folded.get(table, key),
        }
    }

    /// Rows whose key is above `after`, in order, `limit` at most.
    pub fn scan(&self, table: Table, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, Value)>, DbError> {
        self.scan_prefix(table, b"", after, limit)
    }

    /// Those of them whose key begins with `prefix`.
    pub fn scan_prefix(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Value)>, DbError> {
        let in_front = in_front(&self.active, self.frozen.as_deref(), table, prefix, after, limit);
        merge(in_front, &self.folded, table, prefix, after, limit)
    }
}

type InFront = BTreeMap<Key, Option<Value>>;

/// The rows in front up to `limit` that are visible: with these, nothing behind the last of them is of interest, whatever redb has.
fn in_front(
    active: &Generation,
    frozen: Option<&Generation>,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> InFront {
    let mut rows = InFront::new();
    let mut active = active.range(table, prefix, after).peekable();
    let mut frozen = frozen.into_iter().flat_map(|frozen| frozen.range(table, prefix, after)).peekable();
    let mut visible = 0;
    while visible < limit {
        let row = match (active.peek(), frozen.peek()) {
            (Some((newer, _)), Some((older, _))) if older <= newer => {
                if older == newer {
                    // Hidden.
                    frozen.next();
                    continue;
                }
                frozen.next()
            }
            (None, _) => frozen.next(),
            _ => active.next(),
        };
        let Some((key, value)) = row else { break };
        visible += usize::from(value.is_some());
        rows.insert(key.clone(), value.clone());
    }
    rows
}

/// Rows in front hide those behind; a deleted row in front may take one of the `limit` rows read behind, so reading goes on until
/// there are enough or no more.
fn merge(
    in_front: InFront,
    folded: &Snapshot,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Key, Value)>, DbError> {
    if in_front.is_empty() {
        return folded.scan(table, prefix, after, limit);
    }
    let hidden = in_front.values().filter(|value| value.is_none()).count();
    let behind = folded.scan(table, prefix, after, limit.saturating_add(hidden))?;
    let mut rows: BTreeMap<Key, Option<Value>> = behind.into_iter().map(|(key, value)| (key, Some(value))).collect();
    rows.extend(in_front);
    let visible = rows.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
    Ok(visible.take(limit).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::db::Db;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn reads_equal_a_map_whatever_has_been_folded(
            steps in vec((0u8..6, 0u8..8, any::<u8>()), 1..60), limit in 1usize..6
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let db = Db::open(&dir.path().join("meta.redb")).expect("a database");
            let overlay = Overlay::new(db.snapshot().expect("a snapshot"));
            let mut model = BTreeMap::new();
            for (what, key, value) in steps {
                let key = Bytes::copy_from_slice(&[key % 2, key]);
                match what {
                    0..3 => {
                        let value = Bytes::copy_from_slice(&[value]);
                        model.insert(key.clone(), value.clone());
                        overlay.publish(vec![Put { table: Table::Name, key, value: Some(value) }]);
                    }
                    3 => {
                        model.remove(&key);
                        overlay.publish(vec![Put { table: Table::Name, key, value: None }]);
                    }
                    4 => {
                        overlay.freeze();
                    }
                    _ => {
                        let frozen = overlay.freeze();
                        db.commit(&frozen, &[]).expect("a commit");
                        overlay.folded(db.snapshot().expect("a snapshot"));
                    }
                }
            }
            let all: Vec<_> = model.clone().into_iter().collect();
            prop_assert_eq!(overlay.scan(Table::Name, b"", None, usize::MAX).expect("rows"), all.clone());
            let view = overlay.view();
            prop_assert_eq!(view.scan(Table::Name, None, usize::MAX).expect("rows"), all);
            for key in (0..8).map(|key| Bytes::copy_from_slice(&[key % 2, key])) {
                let expected = model.get(&key).cloned();
                prop_assert_eq!(overlay.get(Table::Name, &key).expect("a row"), expected.clone());
                prop_assert_eq!(view.get(Table::Name, &key).expect("a row"), expected);
            }
            let odd: Vec<_> = model.into_iter().filter(|(key, _)| key[0] == 1).skip(1).take(limit).collect();
            if let Some((first, _)) = overlay.scan(Table::Name, &[1], None, 1).expect("rows").pop() {
                let after = overlay.scan(Table::Name, &[1], Some(&first), limit).expect("rows");
                prop_assert_eq!(after, odd);
            }
        }
    }

    #[test]
    fn a_flipped_bit_of_a_value_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("meta.redb");
        let marker = b"a value long enough to be found in the file";
        {
            let db = Db::open(&path).expect("a database");
            let mut generation = Generation::default();
            let value = Some(Bytes::from_static(marker));
            generation.put(Put { table: Table::Meta, key: Bytes::from_static(b"k"), value });
            db.commit(&generation, &[]).expect("a commit");
        }
        let mut bytes = std::fs::read(&path).expect("the file");
        let places: Vec<_> =
            bytes.windows(marker.len()).enumerate().filter(|(_, w)| w == marker).map(|(i, _)| i).collect();
        assert!(!places.is_empty());
        places.iter().for_each(|place| bytes[place + 3] ^= 4);
        std::fs::write(&path, bytes).expect("the file");
        let db = Db::open(&path).expect("redb does not notice");
        let read = db.snapshot().expect("a snapshot").get(Table::Meta, b"k");
        assert!(matches!(read, Err(DbError::Checksum { table: Table::Meta })), "{read:?}");
    }
}
