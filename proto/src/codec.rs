//! The primitives of the binary formats: LEB128 integers and length-prefixed bytes.

use bytes::Bytes;

/// Why bytes could not be read as what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end in the middle of a value.
    #[error("the bytes end in the middle of {what}")]
    Short {
        /// What was being read.
        what: &'static str,
    },
    /// A value that this version does not know or that is not allowed.
    #[error("{what} is not valid")]
    Invalid {
        /// What was being read.
        what: &'static str,
    },
}

/// Appends an unsigned integer in LEB128: seven bits a byte, lowest first.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer, zigzag and LEB128.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a length and that many bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads values off the front of some bytes. Never panics, whatever the bytes are.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// Starts at the first byte. Payloads are handed out as slices of `bytes`, not copied.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.take(1, what)?[0])
    }

    /// An unsigned integer; over-long and overflowing forms are refused, so each value has one form.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (index, &byte) in self.bytes.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && byte > 1 || (index > 0 && byte == 0) {
                return Err(DecodeError::Invalid { what });
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                let _ = self.bytes.split_to(index + 1);
                return Ok(value);
            }
        }
        Err(DecodeError::Short { what })
    }

    /// An unsigned integer that fits in `T`.
    pub fn uint<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, DecodeError> {
        T::try_from(self.u64(what)?).map_err(|_| DecodeError::Invalid { what })
    }

    /// A signed integer.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        let raw = self.u64(what)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// Length-prefixed bytes, no more than `limit`.
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        let len: usize = self.uint(what)?;
        if len > limit {
            return Err(DecodeError::Invalid { what });
        }
        self.take(len, what)
    }

    /// Exactly `len` bytes.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if len > self.bytes.len() {
            return Err(DecodeError::Short { what });
        }
        Ok(self.bytes.split_to(len))
    }

    /// Nothing may be left.
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Invalid { what }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_and_bytes_survive_a_round_trip(u in any::<u64>(), i in any::<i64>(), b in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            put_u64(&mut out, u);
            put_i64(&mut out, i);
            put_bytes(&mut out, &b);
            let mut reader = Reader::new(out.into());
            prop_assert_eq!(reader.u64("u"), Ok(u));
            prop_assert_eq!(reader.i64("i"), Ok(i));
            prop_assert_eq!(reader.bytes(b.len(), "b").map(|b| b.to_vec()), Ok(b));
            prop_assert_eq!(reader.finish("end"), Ok(()));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in any::<Vec<u8>>()) {
            let mut reader = Reader::new(bytes.into());
            while reader.u64("u").is_ok() && reader.bytes(16, "b").is_ok() {}
        }
    }

    #[test]
    fn an_over_long_integer_is_refused() {
        let mut reader = Reader::new(Bytes::from_static(&[0x80, 0x00]));
        assert_eq!(reader.u64("n"), Err(DecodeError::Invalid { what: "n" }));
    }
}
