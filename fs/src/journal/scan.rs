//! Walks the batches of one file in order, reading in large pieces.

use std::sync::Arc;

use bytes::Bytes;

use super::error::JournalError;
use super::file::LiveFile;
use super::format::{ALIGN_BYTES, BATCH_HEADER_BYTES, BATCH_MAGIC, BATCHES_AT, BatchHeader, body_sum};
use super::lsn::Lsn;

/// How much is read at once at most,
const WINDOW_BYTES: u64 = 1 << 20;
/// and at first: who wants one batch, or the last of a lane, does not wait for more.
const FIRST_WINDOW_BYTES: u64 = 16 << 10;
/// Records shorter than this are copied, so that they don't keep a whole window in memory.
const COPY_BELOW_BYTES: usize = 16 << 10;

/// A place in a file, and the batch expected there.
pub struct FileScan {
    file: Arc<LiveFile>,
    end: u64,
    offset: u64,
    lsn: Lsn,
    window: Bytes,
    window_at: u64,
    read_bytes: u64,
}

impl FileScan {
    /// Starts at the first batch; nothing is read from `end` on.
    pub fn new(file: Arc<LiveFile>, end: u64) -> Self {
        let lsn = file.header.first_lsn;
        Self::at(file, end, BATCHES_AT, lsn)
    }

    /// Starts at `offset`, where the batch `lsn` begins.
    pub fn at(file: Arc<LiveFile>, end: u64, offset: u64, lsn: Lsn) -> Self {
        let end = end.min(file.batches_end());
        Self { file, end, offset, lsn, window: Bytes::new(), window_at: 0, read_bytes: FIRST_WINDOW_BYTES }
    }

    /// The one batch at `offset`, whatever its number; `None` when none begins there.
    pub fn one(file: Arc<LiveFile>, end: u64, offset: u64) -> Result<Option<(Self, BatchHeader)>, JournalError> {
        let mut scan = Self::at(file, end, offset, Lsn::ZERO);
        if offset < BATCHES_AT || offset + BATCH_HEADER_BYTES as u64 > scan.end {
            return Ok(None);
        }
        let bytes = scan.bytes(offset, BATCH_HEADER_BYTES)?;
        let header = BatchHeader::decode(&bytes, scan.file.seed, offset);
        Ok(header.filter(|header| offset + header.total_bytes() <= scan.end).map(|header| {
            scan.lsn = header.lsn;
            (scan, header)
        }))
    }

    /// The file that is walked.
    pub fn file(&self) -> &Arc<LiveFile> {
        &self.file
    }

    /// Where the walk stands, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The batch that is expected next.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The header of the next batch; `None` when the expected batch is not there. Its body is not judged.
    pub fn peek(&mut self) -> Result<Option<BatchHeader>, JournalError> {
        if self.offset + BATCH_HEADER_BYTES as u64 > self.end {
            return Ok(None);
        }
        let bytes = self.bytes(self.offset, BATCH_HEADER_BYTES)?;
        let header = BatchHeader::decode(&bytes, self.file.seed, self.offset);
        Ok(header.filter(|header| header.lsn == self.lsn && self.offset + header.total_bytes() <= self.end))
    }

    /// The records of the batch that `peek` showed; `None` when they are damaged.
    pub fn records(&mut self, header: &BatchHeader) -> Result<Option<Bytes>, JournalError> {
        let at = self.offset + BATCH_HEADER_BYTES as u64 + u64::from(header.state_len);
        self.part(at, header.records_len, header.records_sum)
    }

    /// The table puts of the batch that `peek` showed; `None` when they are damaged.
    pub fn state(&mut self, header: &BatchHeader) -> Result<Option<Bytes>, JournalError> {
        self.part(self.offset + BATCH_HEADER_BYTES as u64, header.state_len, header.state_sum)
    }

    /// Goes past the batch that `peek` showed.
    pub fn skip(&mut self, header: &BatchHeader) {
        self.offset += header.total_bytes();
        self.lsn = self.lsn.next();
    }

    /// The error for a batch that must be here and is not.
    pub fn damaged(&self) -> JournalError {
        JournalError::Damaged { file: self.file.on_disk.path.clone(), offset: self.offset, lsn: self.lsn }
    }

    fn part(&mut self, at: u64, len: u32, sum: u64) -> Result<Option<Bytes>, JournalError> {
        let bytes = self.bytes(at, len as usize)?;
        if body_sum(&bytes) != sum {
            return Ok(None);
        }
        Ok(Some(if bytes.len() < COPY_BELOW_BYTES { Bytes::copy_from_slice(&bytes) } else { bytes }))
    }

    fn bytes(&mut self, at: u64, len: usize) -> Result<Bytes, JournalError> {
        let window_end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + len as u64 > window_end {
            let end = (at + self.read_bytes.max(len as u64)).min(self.end).max(at + len as u64);
            let mut window = vec![0; (end - at) as usize];
            let mut kept = 0;
            if (self.window_at..window_end).contains(&at) {
                let tail = &self.window[(at - self.window_at) as usize..];
                kept = tail.len();
                window[..kept].copy_from_slice(tail);
            }
            self.file.on_disk.read(&mut window[kept..], at + kept as u64)?;
            (self.window, self.window_at) = (window.into(), at);
            self.read_bytes = (self.read_bytes * 2).min(WINDOW_BYTES);
        }
        let from = (at - self.window_at) as usize;
        Ok(self.window.slice(from..from + len))
    }
}

/// Looks at every place where a batch could begin, from `from` to the end of the file, and hands over each
/// intact header with its offset. For the search behind a hole.
pub fn sweep(file: &LiveFile, from: u64, mut found: impl FnMut(u64, &BatchHeader)) -> Result<(), JournalError> {
    let end = file.batches_end();
    let mut at = from;
    let mut window = vec![0; WINDOW_BYTES as usize];
    while at + BATCH_HEADER_BYTES as u64 <= end {
        let len = WINDOW_BYTES.min(end - at) as usize;
        file.on_disk.read(&mut window[..len], at)?;
        // The last header may begin in one piece and end in the next: pieces overlap by a header.
        let next = at + ((len - BATCH_HEADER_BYTES) as u64 / ALIGN_BYTES + 1) * ALIGN_BYTES;
        for start in (0..=len - BATCH_HEADER_BYTES).step_by(ALIGN_BYTES as usize) {
            if window[start..start + 4] == BATCH_MAGIC.to_le_bytes()
                && let Some(header) = BatchHeader::decode(&window[start..len], file.seed, at + start as u64)
            {
                found(at + start as u64, &header);
            }
        }
        at = next;
    }
    Ok(())
}
