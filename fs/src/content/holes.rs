//! Walking and copying a file's data without the holes between it.
//!
//! What counts as data is up to the file system below (`SEEK_DATA`, `SEEK_HOLE`): allocated zeros may count as either. A file
//! that changes meanwhile gives some mixture of before and after; who needs one state holds the object's lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{self, SeekFrom};
use rustix::io::{Errno, retry_on_intr};

use super::object::read_at;

/// The buffer of copies that the kernel can't do.
const COPY_BUFFER_BYTES: usize = 256 << 10;
/// The most that one call of `copy_file_range` is asked for, so that a thread can be seen making progress.
const COPY_CALL_BYTES: u64 = 64 << 20;

/// The data of a file, ascending, as (offset, length) in bytes. Ends after the first error.
pub struct DataSegments<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    /// The end of the data that `at` is in; `at` if not known.
    data_end: u64,
    max_len: u64,
}

impl<'a> DataSegments<'a> {
    /// The data from `offset` to `end` (or the file's end, if that is before), in pieces of at most `max_len` bytes (1 at least).
    pub fn new(file: &'a File, offset: u64, end: u64, max_len: u64) -> Self {
        Self { file, at: offset, end, data_end: offset, max_len: max_len.max(1) }
    }

    /// All of the file's data.
    pub fn all(file: &'a File) -> Self {
        Self::new(file, 0, u64::MAX, u64::MAX)
    }

    fn step(&mut self) -> io::Result<Option<(u64, u64)>> {
        while self.at >= self.data_end {
            // Offsets beyond what the kernel can express are beyond every file's end.
            if self.at >= self.end || self.at > i64::MAX as u64 {
                return Ok(None);
            }
            match seek(self.file, SeekFrom::Data(self.at))? {
                Some(start) if start < self.end => self.at = start,
                _ => return Ok(None),
            }
            // None: the file was cut between the two calls. `at` itself: punched, so the next round looks further on.
            let Some(hole) = seek(self.file, SeekFrom::Hole(self.at))? else { return Ok(None) };
            self.data_end = hole.min(self.end);
        }
        let piece = (self.at, (self.data_end - self.at).min(self.max_len));
        self.at += piece.1;
        Ok(Some(piece))
    }
}

impl Iterator for DataSegments<'_> {
    type Item = io::Result<(u64, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step().transpose();
        if matches!(item, Some(Err(_))) {
            (self.at, self.data_end) = (self.end, self.end);
        }
        item
    }
}

/// Makes `to`, an empty file, a copy of `from`: the same length, data where that has data. How many bytes of data it copied.
pub fn copy_sparse(from: &File, to: &File) -> io::Result<u64> {
    let len = from.metadata()?.len();
    let mut copied = 0;
    for segment in DataSegments::new(from, 0, len, u64::MAX) {
        let (offset, segment_len) = segment?;
        copied += copy_range(from, offset, to, offset, segment_len)?;
    }
    to.set_len(len)?;
    Ok(copied)
}

/// Copies `len` bytes, holes as zeros, fewer where `from` ends. How many. In the kernel if it can (some file systems then share
/// the blocks), else through a buffer. The ranges must not overlap.
pub fn copy_range(from: &File, from_offset: u64, to: &File, to_offset: u64, len: u64) -> io::Result<u64> {
    let (mut read_at, mut write_at) = (from_offset, to_offset);
    let end = from_offset.saturating_add(len);
    while read_at < end {
        let ask = usize::try_from((end - read_at).min(COPY_CALL_BYTES)).unwrap_or(COPY_BUFFER_BYTES);
        // The call moves both offsets on.
        match retry_on_intr(|| fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), ask)) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                let rest = copy_by_buffer(from, read_at, to, write_at, end - read_at)?;
                return Ok(read_at - from_offset + rest);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(read_at - from_offset)
}

fn copy_by_buffer(from: &File, from_offset: u64, to: &File, to_offset: u64, len: u64) -> io::Result<u64> {
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(COPY_BUFFER_BYTES).min(COPY_BUFFER_BYTES)];
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).unwrap_or(COPY_BUFFER_BYTES).min(COPY_BUFFER_BYTES);
        let count = read_at(from, from_offset + done, &mut buffer[..want])?;
        to.write_all_at(&buffer[..count], to_offset + done)?;
        done += count as u64;
        if count < want {
            break;
        }
    }
    Ok(done)
}

/// `lseek` to data or to a hole; `None` where there is none. It moves the descriptor's own position, which nothing here uses.
pub(super) fn seek(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match retry_on_intr(|| fs::seek(file, to)) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    const BLOCK: u64 = 64 << 10;

    /// Data in blocks 1, 2 and 5 of 8.
    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![1; 2 * BLOCK as usize], BLOCK).unwrap();
        file.write_all_at(&vec![2; BLOCK as usize], 5 * BLOCK).unwrap();
        file.set_len(8 * BLOCK).unwrap();
        file
    }

    fn segments(segments: DataSegments) -> Vec<(u64, u64)> {
        segments.map(Result::unwrap).collect()
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn finds_the_data_and_cuts_it_to_measure() {
        let file = sparse();
        assert_eq!(segments(DataSegments::all(&file)), [(BLOCK, 2 * BLOCK), (5 * BLOCK, BLOCK)]);
        assert_eq!(
            segments(DataSegments::new(&file, BLOCK + 10, 5 * BLOCK + 10, BLOCK)),
            [(BLOCK + 10, BLOCK), (2 * BLOCK + 10, BLOCK - 10), (5 * BLOCK, 10)]
        );
        assert_eq!(segments(DataSegments::new(&file, 6 * BLOCK, u64::MAX, 0)), []);
        assert_eq!(segments(DataSegments::new(&file, 7, 7, 1)), []);
        assert_eq!(segments(DataSegments::new(&file, u64::MAX - 1, u64::MAX, 1)), []);
        assert_eq!(segments(DataSegments::all(&tempfile::tempfile().unwrap())), []);
    }

    #[test]
    fn stops_after_an_error() {
        let (reader, _writer) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(reader));
        let mut segments = DataSegments::all(&pipe);
        assert!(segments.next().unwrap().is_err());
        assert!(segments.next().is_none());
    }

    #[test]
    fn a_sparse_copy_is_as_sparse() {
        let (from, to) = (sparse(), tempfile::tempfile().unwrap());
        assert_eq!(copy_sparse(&from, &to).unwrap(), 3 * BLOCK);
        assert!(bytes(&from) == bytes(&to));
        assert_eq!(segments(DataSegments::all(&to)), segments(DataSegments::all(&from)));
        assert_eq!(to.metadata().unwrap().blocks(), from.metadata().unwrap().blocks());
    }

    #[test]
    fn copies_through_a_buffer_as_in_the_kernel() {
        let from = sparse();
        for (from_offset, to_offset, len) in
            [(0, 0, 8 * BLOCK), (BLOCK - 5, 3, 5 * BLOCK), (7 * BLOCK, 0, 3 * BLOCK), (9 * BLOCK, 0, 1)]
        {
            let (kernel, buffer) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            let expected = (8 * BLOCK).saturating_sub(from_offset).min(len);
            assert_eq!(copy_range(&from, from_offset, &kernel, to_offset, len).unwrap(), expected);
            assert_eq!(copy_by_buffer(&from, from_offset, &buffer, to_offset, len).unwrap(), expected);
            assert!(bytes(&kernel) == bytes(&buffer));
        }
    }
}
