//! Extended attributes.
//!
//! Those of a policy (`user.syncline.*` on directories) are kept like all others, after a look at name, place and value. They can be set at every
//! site, also where another is the only writer: else nobody could replace a writer that is gone.

use bytes::Bytes;
use proto::hlc::Stamp;
use proto::ids::FileId;
use proto::record::{MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES, Op};

use super::computed::Computed;
use super::{Scope, commit, commit_and_settle};
use crate::error::FsError;
use crate::policy::attribute::{PREFIX, Setting};
use crate::policy::{Key, WriterSite};
use crate::store::table::{self, Table};
use crate::tree::xattr::Xattr;
use crate::txn::Txn;
use crate::types::XattrMode;
use crate::volume::Volume;

/// As much as the kernel lets a list be (`XATTR_LIST_MAX`).
const MAX_LIST_BYTES: usize = 1 << 16;

const CAPABILITIES: &[u8] = b"security.capability";

impl Volume {
    /// Sets an attribute.
    pub fn setxattr(&self, file: FileId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), FsError> {
        check_name(name)?;
        if value.len() > MAX_XATTR_VALUE_BYTES {
            return Err(FsError::XattrRange);
        }
        if name.starts_with(PREFIX) {
            self.check_policy(file, name, value)?;
        }
        self.need_room(value.len() as u64)?;
        let txn = Txn::begin(self)?;
        let present = txn.get(Table::Xattr, &table::xattr_key(file, name))?.map(Xattr::decode).transpose()?;
        match (mode, present.as_ref().is_some_and(|xattr| xattr.value.is_some())) {
            (XattrMode::Create, true) => return Err(FsError::Exists),
            (XattrMode::Replace, false) => return Err(FsError::NoXattr),
            (_, true) => {}
            (_, false) => {
                let list_bytes: usize = self.listxattr(file)?.iter().map(|name| name.len() + 1).sum();
                if list_bytes + name.len() + 1 > MAX_LIST_BYTES {
                    return Err(FsError::Disk { what: "one more extended attribute", source: no_space() });
                }
            }
        }
        set(txn, file, name, Some(Bytes::copy_from_slice(value)), present)
    }

    /// An attribute's value.
    pub fn getxattr(&self, file: FileId, name: &[u8]) -> Result<Bytes, FsError> {
        if let Some(which) = Computed::from_attribute(name) {
            return self.computed(file, which).map(Bytes::from);
        }
        check_kept(name)?;
        let row = self.rows.get(Table::Xattr, &table::xattr_key(file, name))?.ok_or(FsError::NoXattr)?;
        Xattr::decode(row)?.value.ok_or(FsError::NoXattr)
    }

    /// The names of all attributes, without the computed ones: what copies attributes should not copy those.
    pub fn listxattr(&self, file: FileId) -> Result<Vec<Bytes>, FsError> {
        let mut names = Vec::new();
        for (key, row) in self.rows.scan(Table::Xattr, &table::file_key(file), None, usize::MAX)? {
            if Xattr::decode(row)?.value.is_some() {
                names.push(key.slice(8..));
            }
        }
        Ok(names)
    }

    /// Removes an attribute.
    pub fn removexattr(&self, file: FileId, name: &[u8]) -> Result<(), FsError> {
        check_name(name)?;
        let txn = Txn::begin(self)?;
        let present = txn.get(Table::Xattr, &table::xattr_key(file, name))?.map(Xattr::decode).transpose()?;
        if present.as_ref().is_none_or(|xattr| xattr.value.is_none()) {
            return Err(FsError::NoXattr);
        }
        set(txn, file, name, None, present)
    }

    /// Whether a directory can have this attribute of a policy. What can't be is refused with a line in the log that says what can: the program
    /// only gets a number.
    fn check_policy(&self, file: FileId, name: &[u8], value: &[u8]) -> Result<(), FsError> {
        let Some(key) = Key::from_attribute(name) else {
            let known = Key::ALL.map(Key::attribute).join(", ");
            let (attribute, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            tracing::warn!(%attribute, %value, "refused: there is no such attribute; there are {known}");
            return Err(FsError::Invalid("no attribute of a policy"));
        };
        let setting = Setting::parse(key, value).map_err(|error| {
            tracing::warn!("refused: {error}");
            FsError::Invalid("a value that the attribute cannot have")
        })?;
        if let Setting::Writer(WriterSite::Site(site)) = setting {
            self.check_site(&site)?;
        }
        if !self.inode(file)?.is_dir() {
            let (attribute, value) = (key.attribute(), String::from_utf8_lossy(value));
            let valid = key.valid();
            tracing::warn!(%file, %attribute, %value, "refused: only a directory can have this attribute, which can be {valid}");
            return Err(FsError::Invalid("only directories have a policy"));
        }
        Ok(())
    }

    fn check_site(&self, name: &str) -> Result<(), FsError> {
        let members = self.members()?.into_iter().map(|member| member.name);
        let sites: Vec<String> = members.chain([self.options.site_name.clone()]).collect();
        if sites.iter().any(|site| site == name) {
            return Ok(());
        }
        let (attribute, sites) = (Key::Writer.attribute(), sites.join(", "));
        tracing::warn!(
            "refused: {attribute} cannot be {name:?}; it can be any or one of the sites of this volume: {sites}"
        );
        Err(FsError::Invalid("the volume has no such site"))
    }

    /// A file that is changed, or given away, loses its capabilities, as the kernel does it for its own file systems. Whether it had any.
    pub(crate) fn drop_capabilities(&self, file: FileId) -> Result<bool, FsError> {
        if self.rows.get(Table::Xattr, &table::xattr_key(file, CAPABILITIES))?.is_none() {
            return Ok(false);
        }
        let txn = Txn::begin(self)?;
        let present = txn.get(Table::Xattr, &table::xattr_key(file, CAPABILITIES))?.map(Xattr::decode).transpose()?;
        if present.as_ref().is_none_or(|xattr| xattr.value.is_none()) {
            return Ok(false);
        }
        // A part of the change that follows, whose caller waits for both, or does not wait.
        let (scope, op, touched) = change(&txn, file, CAPABILITIES, None, present)?;
        commit(txn, &scope, op, touched).map(|_| true)
    }
}

/// Which attributes are kept: programs' own and the kernel's for files. POSIX ACLs would have to be enforced, which is not done, so they are not taken.
fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.len() > MAX_XATTR_NAME_BYTES {
        return Err(FsError::XattrRange);
    }
    if Computed::from_attribute(name).is_some() {
        return Err(FsError::NotPermitted("this attribute is computed, and only read"));
    }
    check_kept(name)
}

/// Whether the name is of a namespace, and not the namespace itself.
fn check_kept(name: &[u8]) -> Result<(), FsError> {
    let kept = [&b"user."[..], b"trusted.", b"security."];
    match kept.iter().find_map(|namespace| name.strip_prefix(*namespace)) {
        None => Err(FsError::NotSupported("an extended attribute outside user, trusted and security")),
        Some(b"") => Err(FsError::Invalid("the name of an extended attribute is a namespace's")),
        Some(_) => Ok(()),
    }
}

fn set(txn: Txn<'_>, file: FileId, name: &[u8], value: Option<Bytes>, present: Option<Xattr>) -> Result<(), FsError> {
    let is_policy = name.starts_with(PREFIX);
    let txn = if is_policy { txn.unrefused() } else { txn };
    let (scope, op, touched) = change(&txn, file, name, value, present)?;
    if !is_policy {
        return commit_and_settle(txn, &scope, op, touched, &[file]);
    }
    // By the new policy: `on-loss=degrade` is the way out when peers are gone for long.
    let volume = txn.volume;
    commit(txn, &scope, op, touched)?;
    volume.refresh_sync_roots();
    volume.settle_file(file)
}

fn change(
    txn: &Txn<'_>,
    file: FileId,
    name: &[u8],
    value: Option<Bytes>,
    present: Option<Xattr>,
) -> Result<(Scope, Op, impl Iterator<Item = Stamp> + use<>), FsError> {
    let inode = txn.existing(file)?;
    let touched = inode.stamps().into_iter().chain(present.map(|xattr| xattr.stamp));
    let scope = Scope::of(txn, &[file])?;
    let op = Op::SetXattr { file, name: Bytes::copy_from_slice(name), value, time: txn.now() };
    Ok((scope, op, touched))
}

fn no_space() -> std::io::Error {
    rustix::io::Errno::NOSPC.into()
}
