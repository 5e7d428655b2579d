//! The row of an extended attribute.
//!
//! ```text
//! xattr := stamp present:u8 [value:byte*]
//! ```

use bytes::Bytes;
use proto::codec::{DecodeError, Reader};
use proto::hlc::Stamp;
use proto::record;

/// An attribute's value with the stamp that orders it. A removed one keeps its row: an older value that arrives later must not come back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Xattr {
    /// What last set or removed it.
    pub stamp: Stamp,
    /// Its value; `None` where it was removed.
    pub value: Option<Bytes>,
}

impl Xattr {
    /// The row.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(32 + self.value.as_ref().map_or(0, Bytes::len));
        record::put_stamp(&mut out, self.stamp);
        out.push(u8::from(self.value.is_some()));
        out.extend_from_slice(self.value.as_deref().unwrap_or_default());
        out.into()
    }

    /// Reads a row.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let stamp = record::stamp(&mut reader)?;
        let present = reader.u8("an xattr's state")? == 1;
        let value = reader.take(reader.remaining(), "an xattr's value")?;
        Ok(Self { stamp, value: present.then_some(value) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::inode::GENESIS;
    use super::*;

    #[test]
    fn an_xattr_survives_a_round_trip() {
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"value"))] {
            let xattr = Xattr { stamp: GENESIS, value };
            assert_eq!(Xattr::decode(xattr.encode()), Ok(xattr));
        }
    }
}
