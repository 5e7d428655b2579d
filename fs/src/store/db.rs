//! The rows that have been folded: a redb database. The only user of redb.
//!
//! redb checks its own structure but not the bytes of values, so each value carries a checksum over table, key and value; it is
//! checked at every read.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};
use xxhash_rust::xxh3::Xxh3;

use super::overlay::Generation;
use super::table::{Key, Table, Value};

/// What redb may keep in memory.
const CACHE_BYTES: usize = 128 << 20;
const CHECKSUM_BYTES: usize = 4;

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The database file of a store.
pub struct Db {
    database: Database,
}

/// The database as of one commit. Rows read from it never change.
pub struct Snapshot {
    tables: Vec<ReadOnlyTable<&'static [u8], &'static [u8]>>,
}

/// Why the database could not answer.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// redb failed, or the file system below it.
    #[error("the database meta.redb: {0}")]
    Redb(#[from] Box<redb::Error>),
    /// A value's checksum is wrong.
    #[error("a row of table {table:?} has a wrong checksum; restore the store from a peer by joining again")]
    Checksum {
        /// The row's table.
        table: Table,
    },
}

impl Db {
    /// Opens the database, creating it if absent. After an unclean end redb repairs it from its last commit.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(boxed)?;
        let db = Self { database };
        db.write(&[])?;
        Ok(db)
    }

    /// Commits rows durably, all or nothing.
    ///
    /// # Errors
    /// When the flush failed the rows may be there after reopening or not.
    pub fn commit(&self, generation: &Generation, extra: &[(Table, Key, Value)]) -> Result<(), DbError> {
        let rows = generation.rows().map(|(table, key, value)| (table, key.clone(), value.clone()));
        let extra = extra.iter().map(|(table, key, value)| (*table, key.clone(), Some(value.clone())));
        self.write(&rows.chain(extra).collect::<Vec<_>>())
    }

    fn write(&self, rows: &[(Table, Key, Option<Value>)]) -> Result<(), DbError> {
        let mut write = self.database.begin_write().map_err(boxed)?;
        write.set_durability(Durability::Immediate).map_err(boxed)?;
        write.set_quick_repair(true);
        {
            let mut tables = Table::ALL
                .into_iter()
                .map(|table| write.open_table(definition(table)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(boxed)?;
            for (table, key, value) in rows {
                let rows = &mut tables[table.index()];
                match value {
                    Some(value) => rows.insert(&key[..], &seal(*table, key, value)[..]).map(drop).map_err(boxed)?,
                    None => rows.remove(&key[..]).map(drop).map_err(boxed)?,
                }
            }
        }
        Ok(write.commit().map_err(boxed)?)
    }

    /// The database as it is now.
    pub fn snapshot(&self) -> Result<Snapshot, DbError> {
        let read = self.database.begin_read().map_err(boxed)?;
        let tables = Table::ALL
            .into_iter()
            .map(|table| read.open_table(definition(table)))
            .collect::<Result<_, _>>()
            .map_err(boxed)?;
        Ok(Snapshot { tables })
    }
}

impl Snapshot {
    /// One row.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, DbError> {
        let found = redb::ReadableTable::get(&self.tables[table.index()], key).map_err(boxed)?;
        found.map(|value| unseal(table, key, value.value())).transpose()
    }

    /// Rows whose key begins with `prefix` and is above `after`, in order, `limit` at most.
    pub fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Value)>, DbError> {
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let rows = &self.tables[table.index()];
        let range = redb::ReadableTable::range::<&[u8]>(rows, (start, Bound::Unbounded)).map_err(boxed)?;
        let mut found = Vec::new();
        for row in range {
            let (key, value) = row.map_err(boxed)?;
            if !key.value().starts_with(prefix) || found.len() == limit {
                break;
            }
            let value = unseal(table, key.value(), value.value())?;
            found.push((Bytes::copy_from_slice(key.value()), value));
        }
        Ok(found)
    }
}

fn definition(table: Table) -> Rows {
    TableDefinition::new(match table {
        Table::Inode => "inode",
        Table::Entry => "entry",
        Table::Name => "name",
        Table::Xattr => "xattr",
        Table::Frontier => "frontier",
        Table::Meta => "meta",
        Table::Member => "member",
        Table::Acknowledged => "acknowledged",
        Table::Garbage => "garbage",
        Table::Extent => "extent",
        Table::Saved => "saved",
        Table::Active => "active",
        Table::Repair => "repair",
        Table::Link => "link",
    })
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Xxh3::with_seed(table as u64);
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    (hash.digest() as u32).to_le_bytes()
}

fn seal(table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
    [value, &checksum(table, key, value)].concat()
}

fn unseal(table: Table, key: &[u8], sealed: &[u8]) -> Result<Value, DbError> {
    let split = sealed.len().checked_sub(CHECKSUM_BYTES).ok_or(DbError::Checksum { table })?;
    let (value, sum) = sealed.split_at(split);
    if sum != checksum(table, key, value) {
        return Err(DbError::Checksum { table });
    }
    Ok(Bytes::copy_from_slice(value))
}

fn boxed(error: impl Into<redb::Error>) -> Box<redb::Error> {
    Box::new(error.into())
}
