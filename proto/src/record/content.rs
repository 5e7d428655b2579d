//! A change to the content of one file.

use bytes::Bytes;

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

impl Data {
    /// The number of bytes that it stands for.
    pub fn len(&self) -> u64 {
        match self {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Extent(len) => u64::from(*len),
        }
    }

    /// Whether it stands for no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
