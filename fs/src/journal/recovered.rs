//! What was appended after the checkpoint, to be applied again.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::JournalError;
use super::file::LiveFile;
use super::lsn::Lsn;
use super::reader::OwnedBatch;
use super::scan::FileScan;
use super::writer::Location;

/// Where the journal's torn end was cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The file.
    pub file: PathBuf,
    /// Where, in bytes.
    pub offset: u64,
    /// The first batch that is not there.
    pub lsn: Lsn,
    /// Bytes of it and of batches behind it in that file.
    pub bytes: u64,
    /// Files behind it that were given up.
    pub files: usize,
}

/// The batches after the checkpoint, in order, read as they are asked for.
pub struct Recovered {
    cut: Option<Cut>,
    /// Yet to be walked, the next one last.
    files: Vec<Arc<LiveFile>>,
    scan: Option<FileScan>,
    after: Lsn,
    head: Lsn,
}

impl Recovered {
    pub(super) fn new(mut files: Vec<Arc<LiveFile>>, after: Lsn, head: Lsn, cut: Option<Cut>) -> Self {
        files.reverse();
        Self { cut, files, scan: None, after, head }
    }

    /// The last batch that there is.
    pub fn head(&self) -> Lsn {
        self.head
    }

    /// Where a torn end was cut, if there was one.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// Bytes that were cut.
    pub fn torn_bytes(&self) -> u64 {
        self.cut.as_ref().map_or(0, |cut| cut.bytes)
    }

    fn step(&mut self) -> Result<Option<OwnedBatch>, JournalError> {
        while self.after < self.head {
            let next_file = self.files.last();
            let entered = self.scan.as_ref().map(FileScan::lsn);
            if next_file.is_some_and(|next| entered.is_none_or(|lsn| lsn == next.header.first_lsn)) {
                self.scan = self.files.pop().map(|file| FileScan::new(file, u64::MAX));
            }
            let Some(scan) = &mut self.scan else { break };
            let Some(header) = scan.peek()? else { return Err(scan.damaged()) };
            if header.lsn > self.after {
                let (Some(state), Some(records)) = (scan.state(&header)?, scan.records(&header)?) else {
                    return Err(scan.damaged());
                };
                let location = Location { generation: scan.file().header.generation, offset: scan.offset() };
                scan.skip(&header);
                self.after = header.lsn;
                return Ok(Some(OwnedBatch { header, state, records, location }));
            }
            scan.skip(&header);
        }
        Ok(None)
    }
}

impl Iterator for Recovered {
    type Item = Result<OwnedBatch, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            // The same error again and again would make an endless list.
            self.after = self.head;
        }
        step.transpose()
    }
}
