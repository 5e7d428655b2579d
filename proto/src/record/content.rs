//! A change to the content of one file.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::fields::{Time, file, mode, option, put_file, put_option, put_stamp, stamp};
use crate::codec::{self, DecodeError, Reader};
use crate::hlc::Stamp;
use crate::ids::FileId;

/// A change to the content of one file: what was done, and upon what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContentChange {
    /// The file.
    pub file: FileId,
    /// The content stamp that the writer saw.
    pub base: Stamp,
    /// What was done.
    pub edit: Edit,
    /// The modification time afterwards; `None` keeps it.
    pub mtime: Option<Time>,
    /// The permission bits afterwards where the change cleared suid or sgid.
    pub mode: Option<u32>,
    /// When it was done, for the change time.
    pub time: Time,
}

/// What was done to a file's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Edit {
    /// Bytes from `offset` on; the file grows if they end beyond it.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        data: Data,
    },
    /// The file ends at `size`; where it grows, with a hole.
    Truncate {
        /// The new size in bytes.
        size: u64,
    },
    /// A hole from `offset` on, within the file's size.
    Punch {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// All content is replaced: the file is a hole of `size` bytes, and the writes that follow it in the lane fill it. It wins over
    /// all older content without having seen it.
    Replace {
        /// The new size in bytes.
        size: u64,
    },
}

/// New bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// By value.
    Bytes(Bytes),
    /// By extent: this many bytes that the origin's object holds. Only in the origin's own journal, never on the wire.
    Extent(u32),
    /// By copy: the bytes that stood elsewhere when the record was made. Whoever finds others there needs them by value.
    Copy(CopiedRange),
}

/// A range of a file, and which bytes were in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopiedRange {
    /// The file, which may be the one that is written.
    pub from: FileId,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many bytes; [`MAX_DATA_BYTES`] at most.
    pub len: u32,
    /// What they are.
    pub hash: ContentHash,
}

/// SHA-256 of a range's bytes: who may write to the range at one site must not be able to make it pass for other bytes at another, so
/// a checksum against accidents is not enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// The most bytes that one record's payload holds. A larger write is several records.
pub const MAX_DATA_BYTES: usize = 1 << 20;

impl ContentChange {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_file(out, self.file);
        put_stamp(out, self.base);
        match &self.edit {
            Edit::Write { offset, data: Data::Bytes(bytes) } => {
                out.push(1);
                codec::put_u64(out, *offset);
                codec::put_bytes(out, bytes);
            }
            Edit::Write { offset, data: Data::Extent(len) } => {
                out.push(2);
                codec::put_u64(out, *offset);
                codec::put_u64(out, u64::from(*len));
            }
            Edit::Write { offset, data: Data::Copy(CopiedRange { from, offset: from_offset, len, hash }) } => {
                out.push(6);
                codec::put_u64(out, *offset);
                put_file(out, *from);
                codec::put_u64(out, *from_offset);
                codec::put_u64(out, u64::from(*len));
                out.extend_from_slice(&hash.0);
            }
            Edit::Truncate { size } => {
                out.push(3);
                codec::put_u64(out, *size);
            }
            Edit::Punch { offset, len } => {
                out.push(4);
                codec::put_u64(out, *offset);
                codec::put_u64(out, *len);
            }
            Edit::Replace { size } => {
                out.push(5);
                codec::put_u64(out, *size);
            }
        }
        put_option(out, self.mtime.as_ref(), |out, time| time.encode(out));
        put_option(out, self.mode.as_ref(), |out, mode| codec::put_u64(out, u64::from(*mode)));
        self.time.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let file = file(reader)?;
        let base = stamp(reader)?;
        let edit = match reader.u8("an edit's tag")? {
            1 => Edit::Write {
                offset: reader.u64("an offset")?,
                data: Data::Bytes(reader.bytes(MAX_DATA_BYTES, "a write's bytes")?),
            },
            2 => {
                Edit::Write { offset: reader.u64("an offset")?, data: Data::Extent(reader.uint("an extent's length")?) }
            }
            3 => Edit::Truncate { size: reader.u64("a size")? },
            4 => Edit::Punch { offset: reader.u64("an offset")?, len: reader.u64("a length")? },
            5 => Edit::Replace { size: reader.u64("a size")? },
            6 => Edit::Write { offset: reader.u64("an offset")?, data: Data::Copy(CopiedRange::decode(reader)?) },
            _ => return Err(DecodeError::Invalid { what: "an edit's tag" }),
        };
        edit.check()?;
        Ok(Self {
            file,
            base,
            edit,
            mtime: option(reader, Time::decode)?,
            mode: option(reader, mode)?,
            time: Time::decode(reader)?,
        })
    }
}

impl Edit {
    /// Files end at 2^63 - 1 at the latest, so no sum of an offset and a length overflows further on.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        let (offset, len) = match self {
            Edit::Write { offset, data } => (*offset, data.len()),
            Edit::Punch { offset, len } => (*offset, *len),
            Edit::Truncate { size } | Edit::Replace { size } => (*size, 0),
        };
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
        end.map(|_| ()).ok_or(DecodeError::Invalid { what: "an offset and length" })
    }
}

impl CopiedRange {
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let (from, offset) = (file(reader)?, reader.u64("a copy's source")?);
        let len = reader.uint("a copy's length").ok().filter(|len| *len as usize <= MAX_DATA_BYTES);
        let len: u32 = len.ok_or(DecodeError::Invalid { what: "a copy's length" })?;
        let end = offset.checked_add(u64::from(len)).filter(|end| *end <= i64::MAX as u64);
        end.ok_or(DecodeError::Invalid { what: "a copy's source" })?;
        let mut hash = [0; 32];
        hash.copy_from_slice(&reader.take(32, "a copy's hash")?);
        Ok(Self { from, offset, len, hash: ContentHash(hash) })
    }
}

impl Data {
    /// The number of bytes that it stands for.
    pub fn len(&self) -> u64 {
        match self {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Extent(len) | Data::Copy(CopiedRange { len, .. }) => u64::from(*len),
        }
    }

    /// Whether it stands for no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
