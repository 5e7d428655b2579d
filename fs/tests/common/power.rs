//! A power loss: the journal ends behind a batch that was durable, or one after it; everything that was written to objects is there. The kernel
//! was started anew.

use std::path::Path;

use bytes::Bytes;
use fs::journal::Lsn;
use fs::store::db::Db;
use fs::store::table::{Table, read_u64};

const BATCHES_AT: usize = 12_288;
const ALIGN: usize = 32;
/// See the layout in `journal/format.rs`.
const LSN_AT: usize = 24;
const HEADER_BYTES: usize = 88;

/// The last batch that is in the database of a store, which is not open.
pub fn checkpoint(store: &Path) -> Lsn {
    let db = Db::open(&store.join("meta.redb")).expect("the database");
    let row = db.snapshot().expect("a snapshot").get(Table::Meta, b"checkpoint").expect("a row");
    Lsn(row.map_or(0, |row| read_u64(&row, "a checkpoint").expect("a number")))
}

/// Takes all batches after `last` out of the store, which is not open.
pub fn lose(store: &Path, last: Lsn) {
    for entry in std::fs::read_dir(store.join("journal")).expect("the journal") {
        let path = entry.expect("a file").path();
        let mut bytes = std::fs::read(&path).expect("a file of the journal");
        let mut lost = false;
        for at in (BATCHES_AT..bytes.len().saturating_sub(HEADER_BYTES)).step_by(ALIGN) {
            if !bytes[at..].starts_with(b"JBAT") {
                continue;
            }
            let lsn = u64::from_le_bytes(bytes[at + LSN_AT..at + LSN_AT + 8].try_into().expect("8 bytes"));
            if lsn > last.0 {
                bytes[at..at + HEADER_BYTES].fill(0);
                lost = true;
            }
        }
        if lost {
            std::fs::write(&path, bytes).expect("written");
        }
    }
    let db = Db::open(&store.join("meta.redb")).expect("the database");
    let boot = (Table::Meta, Bytes::from_static(b"boot"), Bytes::from_static(b"before the power was lost"));
    db.commit(&Default::default(), &[boot]).expect("committed");
}
