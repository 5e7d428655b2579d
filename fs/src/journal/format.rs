//! The layout of a journal file and of what stands in it. All integers are little-endian.
//!
//! ```text
//! file   0      header, copy A ─┐ each in a block of its own: a torn write spoils one at most
//!        4096   header, copy B ─┘
//!        8192   mark, slots A and B, 512 bytes apart, written in turn
//!        12288  batches, each at a multiple of 32 …
//!        end−F  footer (see `footer`); F depends on the file's size alone
//!
//! header magic:u64 version:u32 state:u32 tag:u64 generation:u64 previous:u64 salt:u64 file_bytes:u64
//!        first_lsn:u64 durable_lsn:u64 heads checksum:u64
//! heads  4 × (incarnation:u64 seq:u64 lane_bytes:u64)
//! mark   magic:u32 zero:u32 durable_lsn:u64 checksum:u64
//! batch  magic:u32 kind:u8 lane:u8 origin:u16 incarnation:u32 state_len:u32 records_len:u32 zero:u32 lsn:u64
//!        durable_lsn:u64 first_seq:u64 last_seq:u64 lane_bytes:u64 state_sum:u64 records_sum:u64 checksum:u64
//!        state records zero…
//! ```
//!
//! A file is used many times, so bytes of an earlier use lie behind the last batch. They never validate: the checksums of
//! batch headers, marks and footers are seeded with the store's tag, the file's generation and a salt drawn for each use (after a
//! power loss a generation may be given twice, a salt is not), and with their own offset. The sums of a
//! batch's body need no seed: the batch's header vouches for them.

use proto::ids::{Incarnation, Lane, Seq, SiteId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::lsn::{Heads, LaneHead, Lsn};

/// Batches start at multiples of this.
pub const ALIGN_BYTES: u64 = 32;
/// The unit in which a power loss is assumed to lose writes; header copies stand in different ones.
pub const BLOCK_BYTES: u64 = 4096;
/// Where the copies of the file's header are.
pub const HEADER_AT: [u64; 2] = [0, BLOCK_BYTES];
/// Where the marks are.
pub const MARK_AT: [u64; 2] = [2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 512];
/// Where batches begin.
pub const BATCHES_AT: u64 = 3 * BLOCK_BYTES;
/// Length of a file's header.
pub const FILE_HEADER_BYTES: usize = 80 + HEADS_BYTES + 8;
/// Length of a mark.
pub const MARK_BYTES: usize = 24;
/// Length of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 88;
/// Length of encoded heads.
pub const HEADS_BYTES: usize = Lane::ALL.len() * 24;
/// The version of this layout.
pub const VERSION: u32 = 1;

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"SYNCJRNL");
const MARK_MAGIC: u32 = u32::from_le_bytes(*b"JMRK");
/// The first bytes of a batch.
pub const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"JBAT");

/// `value` rounded up to a multiple of `unit`.
pub fn round_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}

/// What a file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileState {
    /// Free to be used; what stands behind the header means nothing.
    Spare,
    /// Part of the journal.
    Live,
}

/// What is known of a file's use before its first batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileHeader {
    /// Spare or live.
    pub state: FileState,
    /// The store's tag.
    pub store_tag: u64,
    /// Rises with each use of any file: the order of live files.
    pub generation: u64,
    /// The generation of the live file before this one; 0 for the first.
    pub previous: u64,
    /// Drawn at random for each use.
    pub salt: u64,
    /// The file's size.
    pub file_bytes: u64,
    /// The first batch in the file, once there is one.
    pub first_lsn: Lsn,
    /// The last batch known durable when the file was begun.
    pub durable_lsn: Lsn,
    /// The own lanes' heads before the first batch.
    pub heads: Heads,
}

/// Why bytes are not a file's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// The checksum or a field is wrong.
    Invalid,
    /// It is intact, and of this version of the format.
    Version(u32),
}

impl FileHeader {
    /// What the checksums in the file are seeded with.
    pub fn seed(&self) -> u64 {
        let mut bytes = [0; 16];
        Put::new(&mut bytes).u64(self.generation).u64(self.salt);
        xxh3_64_with_seed(&bytes, self.store_tag)
    }

    /// The header as it stands in the file.
    pub fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut out = [0; FILE_HEADER_BYTES];
        Put::new(&mut out)
            .u64(FILE_MAGIC)
            .u32(VERSION)
            .u32(match self.state {
                FileState::Spare => 0,
                FileState::Live => 1,
            })
            .u64(self.store_tag)
            .u64(self.generation)
            .u64(self.previous)
            .u64(self.salt)
            .u64(self.file_bytes)
            .u64(self.first_lsn.0)
            .u64(self.durable_lsn.0)
            .u64(0)
            .heads(&self.heads);
        seal(&mut out, 0);
        out
    }

    /// Reads a header. The tag is not judged.
    pub fn decode(bytes: &[u8; FILE_HEADER_BYTES]) -> Result<Self, BadHeader> {
        let mut get = Get::new(bytes);
        let (magic, version, state) = (get.u64(), get.u32(), get.u32());
        if magic != FILE_MAGIC || !sealed(bytes, 0) {
            return Err(BadHeader::Invalid);
        }
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let state = match state {
            0 => FileState::Spare,
            1 => FileState::Live,
            _ => return Err(BadHeader::Invalid),
        };
        let mut header = FileHeader {
            state,
            store_tag: get.u64(),
            generation: get.u64(),
            previous: get.u64(),
            salt: get.u64(),
            file_bytes: get.u64(),
            first_lsn: Lsn(get.u64()),
            durable_lsn: Lsn(get.u64()),
            heads: Heads::START,
        };
        get.u64();
        header.heads = get.heads();
        Ok(header)
    }
}

/// Encodes the statement that all batches up to `durable` were durable.
pub fn encode_mark(durable: Lsn, seed: u64) -> [u8; MARK_BYTES] {
    let mut out = [0; MARK_BYTES];
    Put::new(&mut out).u32(MARK_MAGIC).u32(0).u64(durable.0);
    seal(&mut out, seed);
    out
}

/// Reads a mark; `None` when there is none of this use of the file.
pub fn decode_mark(bytes: &[u8; MARK_BYTES], seed: u64) -> Option<Lsn> {
    let mut get = Get::new(bytes);
    let magic = get.u32();
    get.u32();
    (magic == MARK_MAGIC && sealed(bytes, seed)).then(|| Lsn(get.u64()))
}

/// What a batch's records are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BatchKind {
    /// Made here, to be shipped.
    Own,
    /// Another site's, replayed here.
    Replayed,
    /// No record, only a change of this site's state.
    State,
    /// Copies of bytes to which earlier records refer, taken before they were overwritten.
    Saved,
}

/// What stands before a batch's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// What its records are.
    pub kind: BatchKind,
    /// The lane of its records.
    pub lane: Lane,
    /// The site that made them.
    pub origin: SiteId,
    /// That site's incarnation.
    pub incarnation: Incarnation,
    /// Bytes of table puts.
    pub state_len: u32,
    /// Bytes of encoded records.
    pub records_len: u32,
    /// Its number.
    pub lsn: Lsn,
    /// The last batch known durable when this one was written.
    pub durable_lsn: Lsn,
    /// Its first record.
    pub first_seq: Seq,
    /// Its last record.
    pub last_seq: Seq,
    /// Bytes of the lane's records up to and with this batch.
    pub lane_bytes: u64,
    /// xxh3 of the table puts.
    pub state_sum: u64,
    /// xxh3 of the records.
    pub records_sum: u64,
}

impl BatchHeader {
    /// Length of a batch in the file, with header and padding.
    pub fn total_bytes(&self) -> u64 {
        batch_bytes(self.state_len as usize, self.records_len as usize)
    }

    /// The header as it stands at `offset` of a file with this seed.
    pub fn encode(&self, seed: u64, offset: u64) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        let kind = match self.kind {
            BatchKind::Own => 0,
            BatchKind::Replayed => 1,
            BatchKind::State => 2,
            BatchKind::Saved => 3,
        };
        Put::new(&mut out)
            .u32(BATCH_MAGIC)
            .bytes(&[kind, self.lane as u8])
            .bytes(&self.origin.0.to_le_bytes())
            .u32(self.incarnation.0)
            .u32(self.state_len)
            .u32(self.records_len)
            .u32(0)
            .u64(self.lsn.0)
            .u64(self.durable_lsn.0)
            .u64(self.first_seq.0)
            .u64(self.last_seq.0)
            .u64(self.lane_bytes)
            .u64(self.state_sum)
            .u64(self.records_sum);
        seal(&mut out, seed.wrapping_add(offset));
        out
    }

    /// Reads the header at `offset`; `None` when no batch of this use of the file begins there.
    pub fn decode(bytes: &[u8], seed: u64, offset: u64) -> Option<Self> {
        let bytes: &[u8; BATCH_HEADER_BYTES] = bytes.get(..BATCH_HEADER_BYTES)?.try_into().ok()?;
        let mut get = Get::new(bytes);
        if get.u32() != BATCH_MAGIC || !sealed(bytes, seed.wrapping_add(offset)) {
            return None;
        }
        let [kind, lane] = get.take::<2>();
        let kind = match kind {
            0 => BatchKind::Own,
            1 => BatchKind::Replayed,
            2 => BatchKind::State,
            3 => BatchKind::Saved,
            _ => return None,
        };
        let lane = Lane::from_u8(lane)?;
        let origin = SiteId(u16::from_le_bytes(get.take()));
        let (incarnation, state_len, records_len) = (Incarnation(get.u32()), get.u32(), get.u32());
        get.u32();
        Some(BatchHeader {
            kind,
            lane,
            origin,
            incarnation,
            state_len,
            records_len,
            lsn: Lsn(get.u64()),
            durable_lsn: Lsn(get.u64()),
            first_seq: Seq(get.u64()),
            last_seq: Seq(get.u64()),
            lane_bytes: get.u64(),
            state_sum: get.u64(),
            records_sum: get.u64(),
        })
    }

    /// The own lanes' heads after this batch, when they were `heads` before it.
    pub fn advance(&self, heads: &mut Heads) {
        if self.kind == BatchKind::Own {
            let head = LaneHead { incarnation: self.incarnation, seq: self.last_seq, lane_bytes: self.lane_bytes };
            heads.set(self.lane, head);
        }
    }
}

/// Length in the file of a batch with a body of these lengths.
pub fn batch_bytes(state_len: usize, records_len: usize) -> u64 {
    round_up(BATCH_HEADER_BYTES as u64 + state_len as u64 + records_len as u64, ALIGN_BYTES)
}

/// The sum of a part of a batch's body.
pub fn body_sum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Puts the checksum of all before it into the last eight bytes.
pub(super) fn seal(out: &mut [u8], seed: u64) {
    let (body, sum) = out.split_at_mut(out.len() - 8);
    sum.copy_from_slice(&xxh3_64_with_seed(body, seed).to_le_bytes());
}

/// Whether the last eight bytes are the checksum of all before them.
pub(super) fn sealed(bytes: &[u8], seed: u64) -> bool {
    let (body, sum) = bytes.split_at(bytes.len() - 8);
    sum == xxh3_64_with_seed(body, seed).to_le_bytes()
}

/// Writes integers one after the other. The caller's array is as long as the layout says.
pub(super) struct Put<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Put<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn heads(&mut self, heads: &Heads) -> &mut Self {
        for head in heads.0 {
            self.u64(u64::from(head.incarnation.0)).u64(head.seq.0).u64(head.lane_bytes);
        }
        self
    }
}

/// Reads integers one after the other. The caller has checked the length against the layout.
pub(super) struct Get<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Get<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        out
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(super) fn heads(&mut self) -> Heads {
        Heads([(); Lane::ALL.len()].map(|()| LaneHead {
            incarnation: Incarnation(self.u64() as u32),
            seq: Seq(self.u64()),
            lane_bytes: self.u64(),
        }))
    }
}
