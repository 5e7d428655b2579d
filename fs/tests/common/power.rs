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
/// In the header of a file, of which there are two copies; in a mark; in the header of a batch: the last batch that was durable then.
const DURABLE_AT: [(&[u8], usize); 3] = [(b"SYNCJRNL", 64), (b"JMRK", 8), (b"JBAT", 32)];

/// The last batch of which the store, which is not open, says that it was durable.
pub fn durable(store: &Path) -> Lsn {
    let mut last = checkpoint(store);
    for entry in std::fs::read_dir(store.join("journal")).expect("the journal") {
        let bytes = std::fs::read(entry.expect("a file").path()).expect("a file of the journal");
        for at in (0..bytes.len().saturating_sub(HEADER_BYTES)).step_by(ALIGN) {
            let found = DURABLE_AT.iter().find(|(magic, _)| bytes[at..].starts_with(magic));
            last = last.max(found.map_or(Lsn(0), |(_, offset)| Lsn(number(&bytes, at + offset))));
        }
    }
    last
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn checkpoint(store: &Path) -> Lsn {
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
            if number(&bytes, at + LSN_AT) > last.0 {
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
