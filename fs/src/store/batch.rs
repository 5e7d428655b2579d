//! The state part of a journal batch: what an operation changes, as puts and deletes, and what it does to objects.
//!
//! ```text
//! state  := hlc:uint next_file:uint puts:list(put) effects:list(effect)
//! put    := table:u8 key:bytes present:u8 [value:bytes]
//! effect := file:uint tag:u8 fields…
//! ```
//!
//! Recovery puts the rows back in front of redb and makes the objects right from the effects. Bytes of an effect by value stand in the
//! batch's records, not here: they go to the disk once.

use bytes::Bytes;
use proto::codec::{self, DecodeError, Reader};
use proto::hlc::Hlc;
use proto::ids::FileId;
use proto::record::{MAX_DATA_BYTES, MAX_XATTR_VALUE_BYTES};

use super::table::{Key, Table, Value};

/// One row set, or deleted where the value is `None`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    /// The table.
    pub table: Table,
    /// The row.
    pub key: Key,
    /// Its value from now on.
    pub value: Option<Value>,
}

/// What a batch does to an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Bytes written from `offset` on: those of the content record with this index among the batch's records.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// Which record of the batch.
        record: u32,
    },
    /// Bytes that were in the object before the batch was appended.
    Extent {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// The object ends at `size`.
    Truncate {
        /// The size in bytes.
        size: u64,
    },
    /// A hole.
    Punch {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes; 0 up to the end of the file.
        len: u64,
    },
    /// A hole of `size` bytes instead of all content.
    Replace {
        /// The size in bytes.
        size: u64,
    },
    /// The bytes of a staged file, cut or with a hole up to `size`, instead of all content: see [`crate::level`].
    Adopt {
        /// The size in bytes.
        size: u64,
        /// The staged file's number.
        stage: u64,
    },
}

/// All that a batch does here.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct State {
    /// The highest clock reading given or seen.
    pub hlc: Hlc,
    /// The counter of the next file created here.
    pub next_file: u64,
    /// Rows.
    pub puts: Vec<Put>,
    /// Objects, in order.
    pub effects: Vec<(FileId, Effect)>,
}

/// A row's value is at most an extended attribute's, with its stamp.
const MAX_VALUE_BYTES: usize = MAX_XATTR_VALUE_BYTES + 4096;
const MAX_KEY_BYTES: usize = 512;

impl State {
    /// The state's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        codec::put_u64(&mut out, self.hlc.0);
        codec::put_u64(&mut out, self.next_file);
        codec::put_u64(&mut out, self.puts.len() as u64);
        for put in &self.puts {
            out.push(put.table as u8);
            codec::put_bytes(&mut out, &put.key);
            out.push(u8::from(put.value.is_some()));
            if let Some(value) = &put.value {
                codec::put_bytes(&mut out, value);
            }
        }
        codec::put_u64(&mut out, self.effects.len() as u64);
        for (file, effect) in &self.effects {
            codec::put_u64(&mut out, file.0);
            effect.encode(&mut out);
        }
        out
    }

    /// Reads a state.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let hlc = Hlc(reader.u64("a batch's clock reading")?);
        let next_file = reader.u64("a batch's file counter")?;
        let count: usize = reader.uint("a batch's puts")?;
        let mut puts = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let table = Table::from_u8(reader.u8("a table")?).ok_or(DecodeError::Invalid { what: "a table" })?;
            let key = reader.bytes(MAX_KEY_BYTES, "a key")?;
            let value = match reader.u8("a put")? {
                0 => None,
                1 => Some(reader.bytes(MAX_VALUE_BYTES, "a value")?),
                _ => return Err(DecodeError::Invalid { what: "a put" }),
            };
            puts.push(Put { table, key, value });
        }
        let count: usize = reader.uint("a batch's effects")?;
        let mut effects = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let file = FileId(reader.u64("an effect's file")?);
            effects.push((file, Effect::decode(&mut reader)?));
        }
        reader.finish("a batch's state")?;
        Ok(Self { hlc, next_file, puts, effects })
    }
}

impl Effect {
    fn encode(&self, out: &mut Vec<u8>) {
        let (tag, first, second) = match self {
            Effect::Write { offset, record } => (1, *offset, u64::from(*record)),
            Effect::Extent { offset, len } => (2, *offset, *len),
            Effect::Truncate { size } => (3, *size, 0),
            Effect::Punch { offset, len } => (4, *offset, *len),
            Effect::Replace { size } => (5, *size, 0),
            Effect::Adopt { size, stage } => (6, *size, *stage),
        };
        out.push(tag);
        codec::put_u64(out, first);
        codec::put_u64(out, second);
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let tag = reader.u8("an effect's tag")?;
        let first = reader.u64("an effect's offset")?;
        let second = reader.u64("an effect's length")?;
        Ok(match tag {
            1 => Effect::Write {
                offset: first,
                record: u32::try_from(second).map_err(|_| DecodeError::Invalid { what: "an effect's record" })?,
            },
            2 => Effect::Extent { offset: first, len: second },
            3 => Effect::Truncate { size: first },
            4 => Effect::Punch { offset: first, len: second },
            5 => Effect::Replace { size: first },
            6 => Effect::Adopt { size: first, stage: second },
            _ => return Err(DecodeError::Invalid { what: "an effect's tag" }),
        })
    }
}

const _: () = assert!(MAX_DATA_BYTES <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn any_put() -> impl Strategy<Value = Put> {
        (1u8..=14, vec(any::<u8>(), 0..40), proptest::option::of(vec(any::<u8>(), 0..80))).prop_map(
            |(table, key, value)| Put {
                table: Table::from_u8(table).expect("a table's number"),
                key: key.into(),
                value: value.map(Into::into),
            },
        )
    }

    fn any_effect() -> impl Strategy<Value = (FileId, Effect)> {
        (any::<u64>(), 1u8..=6, any::<u64>(), any::<u32>()).prop_map(|(file, tag, first, second)| {
            let len = u64::from(second);
            let effect = match tag {
                1 => Effect::Write { offset: first, record: second },
                2 => Effect::Extent { offset: first, len },
                3 => Effect::Truncate { size: first },
                4 => Effect::Punch { offset: first, len },
                5 => Effect::Adopt { size: first, stage: len },
                _ => Effect::Replace { size: first },
            };
            (FileId(file), effect)
        })
    }

    proptest! {
        #[test]
        fn a_state_survives_a_round_trip(
            hlc in any::<u64>(), next_file in any::<u64>(), puts in vec(any_put(), 0..8), effects in vec(any_effect(), 0..4)
        ) {
            let state = State { hlc: Hlc(hlc), next_file, puts, effects };
            prop_assert_eq!(State::decode(state.encode().into()), Ok(state));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = State::decode(bytes.into());
        }
    }
}
