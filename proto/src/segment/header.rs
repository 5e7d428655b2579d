//! What stands before a segment's body, in the clear, so that a receiver can refuse or route the segment without opening it.
//!
//! ```text
//!  at  bytes
//!   0    4   magic "SyLS"             first, so that anything else is refused at once
//!   4    1   format version           next, because it decides what the rest means
//!   5   16   volume                   which records these are, from the widest to the narrowest
//!  21    2   origin
//!  23    4   incarnation
//!  27    1   lane
//!  28    8   first sequence number
//!  36    8   last sequence number
//!  44    1   codec                    how the body is read: 0 plain, 1 an LZ4 block
//!  45    4   plain length in bytes
//!  49   32   sealing salt             what the body is opened with; last, as it is known only when the rest stands
//!  81    8   nonce counter
//!  89    …   body
//! ```
//!
//! Integers are little-endian. All of it is authenticated by the seal.

use crate::ids::{Incarnation, Lane, Seq, SiteId, VolumeId};
use crate::seal::SealingSalt;
use crate::segment::{MAX_SEALED_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENT_RECORDS, OpenError, TAG_BYTES};

/// The length of the header in bytes.
pub const HEADER_BYTES: usize = 89;

const MAGIC: [u8; 4] = *b"SyLS";
pub(super) const VERSION: u8 = 1;

/// What stands before the body, in the clear. All of it is authenticated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which records follow.
    pub run: Run,
    /// How they are compressed.
    pub codec: Codec,
    /// The length of the plain body in bytes.
    pub plain_bytes: u32,
    /// Which sealing key of the origin, see [`crate::seal`].
    pub salt: [u8; SealingSalt::BYTES],
    /// Which nonce under it.
    pub counter: u64,
}

/// Which records a segment has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Run {
    /// The volume that they change.
    pub volume: VolumeId,
    /// The site that made them.
    pub origin: SiteId,
    /// That site's incarnation.
    pub incarnation: Incarnation,
    /// The lane that they stand in.
    pub lane: Lane,
    /// The first one's number.
    pub first: Seq,
    /// The last one's number, included.
    pub last: Seq,
}

/// How the plain body is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    None = 0,
    /// As one LZ4 block.
    Lz4Block = 1,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let run = &self.run;
        let mut out = [0; HEADER_BYTES];
        let mut rest = &mut out[..];
        put(&mut rest, MAGIC);
        put(&mut rest, [VERSION]);
        put(&mut rest, run.volume.0);
        put(&mut rest, run.origin.0.to_le_bytes());
        put(&mut rest, run.incarnation.0.to_le_bytes());
        put(&mut rest, [run.lane as u8]);
        put(&mut rest, run.first.0.to_le_bytes());
        put(&mut rest, run.last.0.to_le_bytes());
        put(&mut rest, [self.codec as u8]);
        put(&mut rest, self.plain_bytes.to_le_bytes());
        put(&mut rest, self.salt);
        put(&mut rest, self.counter.to_le_bytes());
        debug_assert!(rest.is_empty(), "HEADER_BYTES is the sum of the fields");
        out
    }

    /// Reads and checks the header of a sealed segment, which says what it claims to be. Nothing of it is proven before
    /// [`crate::seal::Opener::open`] has succeeded.
    pub fn decode(segment: &[u8]) -> Result<Self, OpenError> {
        let bytes = segment.len();
        let too_short = OpenError::TooShort { bytes };
        let mut rest = segment;
        if take(&mut rest).ok_or(too_short)? != MAGIC {
            return Err(OpenError::NotASegment);
        }
        match take(&mut rest).ok_or(too_short)? {
            [VERSION] => {}
            [version] => return Err(OpenError::UnknownVersion { version }),
        }
        if bytes < HEADER_BYTES + TAG_BYTES {
            return Err(too_short);
        }
        if bytes > MAX_SEALED_BYTES {
            return Err(OpenError::TooLong { bytes });
        }
        let volume = VolumeId(take(&mut rest).ok_or(too_short)?);
        let origin = SiteId(u16::from_le_bytes(take(&mut rest).ok_or(too_short)?));
        let incarnation = Incarnation(u32::from_le_bytes(take(&mut rest).ok_or(too_short)?));
        let [lane] = take(&mut rest).ok_or(too_short)?;
        let first = Seq(u64::from_le_bytes(take(&mut rest).ok_or(too_short)?));
        let last = Seq(u64::from_le_bytes(take(&mut rest).ok_or(too_short)?));
        let [codec] = take(&mut rest).ok_or(too_short)?;
        let plain_bytes = u32::from_le_bytes(take(&mut rest).ok_or(too_short)?);
        let salt = take(&mut rest).ok_or(too_short)?;
        let counter = u64::from_le_bytes(take(&mut rest).ok_or(too_short)?);

        let invalid = |what| OpenError::Header { what };
        let lane = Lane::from_u8(lane).ok_or(invalid("lane"))?;
        let codec = match codec {
            0 => Codec::None,
            1 => Codec::Lz4Block,
            _ => return Err(invalid("codec")),
        };
        let body_bytes = bytes - HEADER_BYTES - TAG_BYTES;
        let plain = plain_bytes as usize;
        let fits = match codec {
            Codec::None => body_bytes == plain,
            Codec::Lz4Block => body_bytes < plain,
        };
        if !fits || plain > MAX_SEGMENT_BYTES {
            return Err(invalid("plain length"));
        }
        if origin.0 == 0 {
            return Err(invalid("origin"));
        }
        if incarnation.0 == 0 {
            return Err(invalid("incarnation"));
        }
        if first == Seq::ZERO || last < first || last.0 == u64::MAX {
            return Err(invalid("sequence numbers"));
        }
        if last.0 - first.0 >= MAX_SEGMENT_RECORDS as u64 {
            return Err(invalid("number of records"));
        }
        let run = Run { volume, origin, incarnation, lane, first, last };
        Ok(Self { run, codec, plain_bytes, salt, counter })
    }
}

fn put<const N: usize>(out: &mut &mut [u8], field: [u8; N]) {
    let (head, rest) = std::mem::take(out).split_at_mut(N);
    head.copy_from_slice(&field);
    *out = rest;
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*field)
}
