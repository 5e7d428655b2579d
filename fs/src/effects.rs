//! What a journalled batch does to objects, made.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::ids::FileId;
use proto::record::Record;

use crate::content::object::Object;
use crate::store::batch::Effect;
use crate::volume::ObjectState;

/// Where a batch's bytes by value come from, and the objects that it changes.
pub struct Content<'a> {
    /// Objects by file; each is locked by the caller.
    pub objects: &'a BTreeMap<FileId, Arc<Object<ObjectState>>>,
    /// The batch's records; effects refer to them by index.
    pub records: &'a [Record],
}

impl Content<'_> {
    /// Makes the effects in their order. After an error any part of them is made.
    pub fn make(&self, effects: &[(FileId, Effect)]) -> std::io::Result<()> {
        for (file, effect) in effects {
            let object = self.object(*file)?;
            match effect {
                Effect::Write { offset, record } => object.write_all_at(*offset, self.bytes(*record)?)?,
                // The bytes are there before the commit, or the committer puts them there after it.
                Effect::Extent { .. } | Effect::Adopt { .. } => {}
                Effect::Truncate { size } => object.set_len(*size)?,
                Effect::Punch { offset, len: 0 } => object.punch(*offset, object.len()?.saturating_sub(*offset))?,
                Effect::Punch { offset, len } => object.punch(*offset, *len)?,
                Effect::Replace { size } => object.empty(*size)?,
            }
        }
        Ok(())
    }

    /// The object of a file that an effect is on.
    pub fn object(&self, file: FileId) -> std::io::Result<&Arc<Object<ObjectState>>> {
        self.objects.get(&file).ok_or_else(|| std::io::Error::other(format!("the object of {file} was not opened")))
    }

    /// The bytes of a record that an effect refers to.
    pub fn bytes(&self, record: u32) -> std::io::Result<&[u8]> {
        let bytes = self.records.get(record as usize).and_then(Record::bytes);
        bytes.map(|bytes| &**bytes).ok_or_else(|| std::io::Error::other("a batch lacks the bytes of its effect"))
    }
}
