//! Sealing and opening of segments: AES-256-GCM under a key that only the volume's sites can derive.
//!
//! ```text
//! sealing key := HKDF-SHA256(secret = volume key, no salt,
//!                            info = "syncline segment v1" | volume (16) | origin (2) | sealing salt (32) | key number (4))
//! key number  := counter / 2^20                                     (fixed-width integers, little-endian)
//! nonce       := 0 (4 bytes) | counter (8 bytes, big-endian)
//! sealed      := header | AES-256-GCM(sealing key, nonce, associated data = header, plaintext = body) | tag (16)
//! ```
//!
//! The header's layout is in [`crate::segment`]. All of it is associated data: a segment can't be passed off as one of another
//! volume, origin, incarnation, lane, place, codec or length.
//!
//! # Why no nonce repeats under one key
//!
//! A nonce that repeats under one key of GCM gives away plaintext and the power to forge. It can't happen here:
//!
//! 1. *Between sites and volumes*, keys differ: volume and origin stand in `info`, at fixed widths, so that two different
//!    inputs never read the same. A site id is never given out twice.
//! 2. *Between runs of one site's daemon*, keys differ: each start draws 32 random bytes as the salt of each of its sealers. Two of a trillion starts
//!    draw the same with a probability below 2^-170. No state on disk is relied upon, so a restored disk image does no harm.
//! 3. *Within a run*, one [`Sealer`] owns the salt (it takes it, and cannot be cloned) and its counter only rises: it is raised before
//!    the cipher runs, so a failed sealing burns its number too. At the counter's end it refuses; it never wraps.
//!    Different key numbers are different keys, and the whole counter stands in the nonce anyway.
//!
//! What a caller must keep: each salt is fresh from the operating system's generator and goes to one sealer. What is beyond this:
//! a snapshot of a running virtual machine, memory included, that is resumed twice.
//!
//! # Why the key changes every 2^20 segments
//!
//! Also with nonces that never repeat, GCM is a pseudorandom stream only up to the square of the 16-byte blocks under one key over 2^129.
//! 2^20 segments of at most 2^17 + 1 blocks stay at 2^-55, whatever a daemon's uptime; the next key costs two microseconds.

use std::fmt;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce};
use bytes::Bytes;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ids::{SiteId, VolumeId};
use crate::record::Record;
use crate::segment::{self, HEADER_BYTES, Header, OpenError, PlainSegment, Run, TAG_BYTES};

const LABEL: &[u8] = b"syncline segment v1";
/// How many segments one derived key seals.
const SEGMENTS_PER_KEY: u64 = 1 << 20;
/// The counter never reaches this: there, key numbers would leave their 32 bits.
const COUNTER_END: u64 = SEGMENTS_PER_KEY << 32;
/// How many derived keys an opener keeps: several starts of several origins; more are derived again when needed.
const MAX_CACHED_KEYS: usize = 64;

/// The secret of a volume: whoever has it can read and make segments. Never leaves the volume's sites.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VolumeKey([u8; VolumeKey::BYTES]);

impl VolumeKey {
    /// Its length in bytes.
    pub const BYTES: usize = 32;

    /// Takes the key's bytes, which must be random.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The key's bytes, to keep it in a file or to hand it to a joining site.
    pub fn expose(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeKey(redacted)")
    }
}

/// What tells the sealing keys of one origin apart, one start of its daemon from another. Not secret. Not `Copy`: a sealer takes it.
#[derive(Debug)]
pub struct SealingSalt([u8; SealingSalt::BYTES]);

impl SealingSalt {
    /// Its length in bytes.
    pub const BYTES: usize = 32;

    /// Takes bytes fresh from the operating system's random generator, never used for another sealer.
    pub fn from_random(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

/// Why a segment was not sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// It belongs to another volume or origin than the sealer.
    #[error(
        "the sealer is of site {sealer}, the segment of site {segment} or of another volume; a site seals only its own records"
    )]
    NotOurs {
        /// The sealer's site.
        sealer: SiteId,
        /// The segment's origin.
        segment: SiteId,
    },
    /// The counter has reached its end.
    #[error("this sealer has sealed as many segments as it may; restart the daemon to draw a new salt")]
    Exhausted,
    /// The cipher refused; no segment within its size limits makes it do so.
    #[error("the cipher refused a segment of {bytes} bytes")]
    Cipher {
        /// The length of the body.
        bytes: usize,
    },
}

/// Seals the segments of one site, for one run of its daemon.
pub struct Sealer {
    keys: KeySource,
    origin: SiteId,
    salt: [u8; SealingSalt::BYTES],
    /// The number of the next segment: every lower one is used or burnt.
    counter: u64,
    key_number: u32,
    cipher: Aes256Gcm,
}

impl Sealer {
    /// A sealer for what `origin` makes, from a salt drawn for this start of the daemon.
    pub fn new(key: &VolumeKey, volume: VolumeId, origin: SiteId, salt: SealingSalt) -> Self {
        let keys = KeySource::new(key, volume);
        let cipher = keys.cipher(origin, &salt.0, 0);
        Self { keys, origin, salt: salt.0, counter: 0, key_number: 0, cipher }
    }

    /// Seals a segment of this sealer's site. Do it once, and send the same bytes to every peer.
    ///
    /// # Errors
    /// [`SealError`]; nothing was sealed then.
    pub fn seal(&mut self, segment: PlainSegment) -> Result<Bytes, SealError> {
        let PlainSegment { run, codec, plain_bytes, mut message } = segment;
        if run.origin != self.origin || run.volume != self.keys.volume {
            return Err(SealError::NotOurs { sealer: self.origin, segment: run.origin });
        }
        let counter = self.counter;
        let key_number = key_number(counter).ok_or(SealError::Exhausted)?;
        self.counter += 1;
        if key_number != self.key_number {
            self.cipher = self.keys.cipher(self.origin, &self.salt, key_number);
            self.key_number = key_number;
        }
        let header = Header { run, codec, plain_bytes, salt: self.salt, counter }.encode();
        let (head, body) = message.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header);
        let bytes = body.len();
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce(counter), &header, InOutBuf::from(body))
            .map_err(|_| SealError::Cipher { bytes })?;
        message.extend_from_slice(&tag);
        Ok(Bytes::from(message))
    }
}

/// A segment that was sealed by a site of this volume, and all of its records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenedSegment {
    /// Which records they are.
    pub run: Run,
    /// `run.first..=run.last`.
    pub records: Vec<Record>,
}

/// Opens segments of any origin of one volume.
pub struct Opener {
    keys: KeySource,
    /// The most recently used last. Only keys that have opened something: a stranger can't push them out.
    cached: Vec<(KeyId, Box<Aes256Gcm>)>,
}

#[derive(PartialEq, Eq)]
struct KeyId {
    origin: SiteId,
    salt: [u8; SealingSalt::BYTES],
    number: u32,
}

impl Opener {
    /// An opener for the volume with this key.
    pub fn new(key: &VolumeKey, volume: VolumeId) -> Self {
        Self { keys: KeySource::new(key, volume), cached: Vec::new() }
    }

    /// Checks the header, verifies, decrypts, decompresses and parses, in this order: nothing is decompressed or parsed that
    /// was not sealed by a site. Whether the segment comes next in its lane is for the receiver to say.
    ///
    /// # Errors
    /// [`OpenError`], whatever the bytes are.
    pub fn open(&mut self, segment: &[u8]) -> Result<OpenedSegment, OpenError> {
        let header = Header::decode(segment)?;
        if header.run.volume != self.keys.volume {
            return Err(OpenError::OtherVolume { found: header.run.volume, expected: self.keys.volume });
        }
        let number = key_number(header.counter).ok_or(OpenError::Header { what: "nonce counter" })?;
        let id = KeyId { origin: header.run.origin, salt: header.salt, number };
        let body = match self.cached.iter().position(|(cached, _)| *cached == id) {
            Some(index) => {
                let body = decrypt(&self.cached[index].1, &header, segment)?;
                self.cached[index..].rotate_left(1);
                body
            }
            None => {
                let cipher = Box::new(self.keys.cipher(id.origin, &id.salt, number));
                let body = decrypt(&cipher, &header, segment)?;
                if self.cached.len() >= MAX_CACHED_KEYS {
                    self.cached.remove(0);
                }
                self.cached.push((id, cipher));
                body
            }
        };
        let records = segment::records(&header, body)?;
        Ok(OpenedSegment { run: header.run, records })
    }
}

fn decrypt(cipher: &Aes256Gcm, header: &Header, segment: &[u8]) -> Result<Vec<u8>, OpenError> {
    let too_short = OpenError::TooShort { bytes: segment.len() };
    let (clear, sealed) = segment.split_at_checked(HEADER_BYTES).ok_or(too_short)?;
    let (sealed, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(too_short)?;
    let mut body = vec![0; sealed.len()];
    let buffer = InOutBuf::new(sealed, &mut body).map_err(|_| OpenError::NotAuthentic)?;
    cipher
        .decrypt_inout_detached(&nonce(header.counter), clear, buffer, tag.into())
        .map_err(|_| OpenError::NotAuthentic)?;
    Ok(body)
}

/// Derives the sealing keys of one volume.
struct KeySource {
    volume: VolumeId,
    hkdf: Hkdf<Sha256>,
}

impl KeySource {
    fn new(key: &VolumeKey, volume: VolumeId) -> Self {
        Self { volume, hkdf: Hkdf::new(None, key.expose()) }
    }

    fn cipher(&self, origin: SiteId, salt: &[u8; SealingSalt::BYTES], number: u32) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        let (origin, number) = (origin.0.to_le_bytes(), number.to_le_bytes());
        let info: [&[u8]; 5] = [LABEL, &self.volume.0, &origin, salt, &number];
        let derived = self.hkdf.expand_multi_info(&info, &mut *key);
        assert!(derived.is_ok(), "HKDF-SHA256 gives up to 8160 bytes, and 32 are asked for");
        Aes256Gcm::new((&*key).into())
    }
}

fn key_number(counter: u64) -> Option<u32> {
    if counter >= COUNTER_END { None } else { u32::try_from(counter / SEGMENTS_PER_KEY).ok() }
}

fn nonce(counter: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce.into()
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer(site {}, next {})", self.origin, self.counter)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener(volume {}, {} keys)", self.keys.volume, self.cached.len())
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
