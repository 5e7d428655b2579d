//! The rows that exist once: what the store is, and how its last run ended.

use bytes::Bytes;
use proto::hlc::Hlc;
use proto::ids::{SiteId, VolumeId};
use xxhash_rust::xxh3::xxh3_64;

use crate::journal::Lsn;
use crate::store::db::{Db, DbError};
use crate::store::overlay::Overlay;
use crate::store::table::{Key, Table, Value};

/// The format of everything in a store. Raised with each change that an older program would misread; 3: records by copy.
pub const FORMAT: u64 = 3;
/// The oldest that this program reads as it is. Opening raises it, before anything is written that needs that.
pub const OLDEST_FORMAT: u64 = 2;

/// What never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The volume.
    pub volume: VolumeId,
    /// The site.
    pub site: SiteId,
    /// Tells this store's journal files from another's.
    pub store_tag: u64,
}

/// How far the store has come, and how its last run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The last batch folded in.
    pub checkpoint: Lsn,
    /// The clock then.
    pub hlc: Hlc,
    /// The counter of the next file then.
    pub next_file: u64,
    /// Whether the store was closed.
    pub clean: bool,
    /// The kernel's boot id when it was last opened.
    pub boot: Bytes,
    /// Whether a snapshot is being taken in: the store is not complete.
    pub joining: bool,
    /// Whether a peer has records of this site's incarnation that this site has lost.
    pub tail_lost: bool,
}

/// The row of the checkpoint. Written with every fold.
pub const CHECKPOINT: &[u8] = b"checkpoint";
/// The row of the clock.
pub const HLC: &[u8] = b"hlc";
/// The row of the file counter.
pub const NEXT_FILE: &[u8] = b"next_file";
/// The row that says that a snapshot is being taken in.
pub const JOINING: &[u8] = b"joining";
/// The row that says that a peer's state is being taken in, and whose: the store is complete, but not level.
pub const LEVELLING: &[u8] = b"levelling";
/// The row that says that a peer has records of this site that this site has lost: until a new incarnation begins, it makes none.
pub const TAIL_LOST: &[u8] = b"tail_lost";
const CLEAN: &[u8] = b"clean";
const BOOT: &[u8] = b"boot";

/// Where the kernel tells its boot id.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Meta {
    /// The rows.
    pub fn rows(&self) -> Vec<(Table, Key, Value)> {
        vec![
            number(b"format", FORMAT),
            (Table::Meta, Bytes::from_static(b"volume"), Bytes::copy_from_slice(&self.volume.0)),
            number(b"site", u64::from(self.site.0)),
            number(b"store_tag", self.store_tag),
        ]
    }

    /// Reads the rows; `None` where the store was never completed.
    pub fn load(rows: &Overlay) -> Result<Option<Self>, DbError> {
        let volume = rows.get(Table::Meta, b"volume")?.and_then(|row| <[u8; 16]>::try_from(&row[..]).ok());
        let (site, store_tag) = (read(rows, b"site")?, read(rows, b"store_tag")?);
        let (Some(volume), Some(site), Some(store_tag)) = (volume, site, store_tag) else { return Ok(None) };
        let Ok(site) = u16::try_from(site) else { return Ok(None) };
        Ok(Some(Self { volume: VolumeId(volume), site: SiteId(site), store_tag }))
    }
}

impl Run {
    /// Reads the rows.
    pub fn load(rows: &Overlay) -> Result<Self, DbError> {
        Ok(Self {
            checkpoint: Lsn(read(rows, CHECKPOINT)?.unwrap_or_default()),
            hlc: Hlc(read(rows, HLC)?.unwrap_or_default()),
            next_file: read(rows, NEXT_FILE)?.unwrap_or(1),
            clean: read(rows, CLEAN)? == Some(1),
            boot: rows.get(Table::Meta, BOOT)?.unwrap_or_default(),
            joining: read(rows, JOINING)? == Some(1),
            tail_lost: read(rows, TAIL_LOST)? == Some(1),
        })
    }

    /// Sets how the run ends, durably. The other rows are the fold's.
    pub fn save(&self, db: &Db) -> Result<(), DbError> {
        let boot = (Table::Meta, Bytes::from_static(BOOT), self.boot.clone());
        db.commit(&Default::default(), &[number(CLEAN, u64::from(self.clean)), boot])
    }
}

/// The format of the store; `None` where it was never completed.
pub fn format(rows: &Overlay) -> Result<Option<u64>, DbError> {
    read(rows, b"format")
}

/// Says that the store is of this program's format, durably: no older program opens it from now on.
pub fn raise_format(db: &Db) -> Result<(), DbError> {
    db.commit(&Default::default(), &[number(b"format", FORMAT)])
}

/// The kernel's boot id: another one means that the page cache was lost.
pub fn boot_id() -> std::io::Result<Bytes> {
    Ok(std::fs::read(BOOT_ID)?.into())
}

/// The tag of a store's journal files.
pub fn store_tag(volume: VolumeId, site: SiteId) -> u64 {
    let mut bytes = volume.0.to_vec();
    bytes.extend_from_slice(&site.0.to_be_bytes());
    xxh3_64(&bytes)
}

/// A row of one number.
pub fn number(key: &'static [u8], value: u64) -> (Table, Key, Value) {
    (Table::Meta, Bytes::from_static(key), Bytes::copy_from_slice(&value.to_be_bytes()))
}

fn read(rows: &Overlay, key: &[u8]) -> Result<Option<u64>, DbError> {
    let row = rows.get(Table::Meta, key)?;
    Ok(row.and_then(|row| <[u8; 8]>::try_from(&row[..]).ok()).map(u64::from_be_bytes))
}
