//! What a file system operation can answer besides success, and the one mapping to errno.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::journal::JournalError;
use crate::store::db::DbError;

/// Why an operation did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No such entry or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The name is longer than 255 bytes.
    #[error("the name is too long")]
    NameTooLong,
    /// An argument that can't be: a bad flag, a directory moved below itself.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// Not allowed, whoever asks.
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    /// The caller may not.
    #[error("permission denied")]
    Access,
    /// The handle is not open for this.
    #[error("the handle is not open for this")]
    BadHandle,
    /// The file would be larger than files may be.
    #[error("the file would be too large")]
    TooLarge,
    /// The inode has as many links as it may have.
    #[error("too many links")]
    TooManyLinks,
    /// No such attribute.
    #[error("no such extended attribute")]
    NoXattr,
    /// The attribute's value or list is longer than asked for or allowed.
    #[error("the extended attribute is too large")]
    XattrRange,
    /// Seek beyond the end.
    #[error("the offset is beyond the end of the file")]
    BeyondEnd,
    /// What the file system below cannot do, or this one does not offer.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// The site stopped writing after a failed flush or damage.
    #[error("the site is read-only since {0}")]
    ReadOnly(String),
    /// The directory's policy names another site as the only writer.
    #[error("only site {0} writes here (user.syncline.writer)")]
    OtherWriter(String),
    /// Peers that the directory's policy requires did not answer. If the change was made, it stays and reaches them later.
    #[error("{0}")]
    PeersLack(String),
    /// The file system below failed.
    #[error("{what}: {source}")]
    Disk {
        /// What was attempted.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// The store holds something that cannot be.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl FsError {
    /// The error number for the program.
    pub fn errno(&self) -> Errno {
        match self {
            FsError::NotFound => Errno::NOENT,
            FsError::Exists => Errno::EXIST,
            FsError::NotDirectory => Errno::NOTDIR,
            FsError::IsDirectory => Errno::ISDIR,
            FsError::NotEmpty => Errno::NOTEMPTY,
            FsError::NameTooLong => Errno::NAMETOOLONG,
            FsError::Invalid(_) => Errno::INVAL,
            FsError::NotPermitted(_) => Errno::PERM,
            FsError::Access => Errno::ACCESS,
            FsError::BadHandle => Errno::BADF,
            FsError::TooLarge => Errno::FBIG,
            FsError::TooManyLinks => Errno::MLINK,
            FsError::NoXattr => Errno::NODATA,
            FsError::XattrRange => Errno::RANGE,
            FsError::BeyondEnd => Errno::NXIO,
            FsError::NotSupported(_) => Errno::OPNOTSUPP,
            FsError::ReadOnly(_) | FsError::OtherWriter(_) => Errno::ROFS,
            FsError::PeersLack(_) => Errno::IO,
            FsError::Disk { source, .. } => match source.raw_os_error() {
                Some(code) if code == Errno::NOSPC.raw_os_error() => Errno::NOSPC,
                Some(code) if code == Errno::DQUOT.raw_os_error() => Errno::DQUOT,
                Some(code) if code == Errno::FBIG.raw_os_error() => Errno::FBIG,
                _ => Errno::IO,
            },
            FsError::Damaged(_) => Errno::IO,
        }
    }
}

/// Why a store cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is something where the store is to be made.
    #[error("{} holds a store already; choose another directory", store.display())]
    Exists {
        /// The store's directory.
        store: PathBuf,
    },
    /// There is no complete store.
    #[error("{} holds no complete store; run `syncline init` or `syncline join` with an empty directory", store.display())]
    Absent {
        /// The store's directory.
        store: PathBuf,
    },
    /// The site was joining, and did not get the whole snapshot.
    #[error("{} holds a store that never got all of the volume; remove it and join again with a new token", store.display())]
    Joining {
        /// The store's directory.
        store: PathBuf,
    },
    /// The file system below failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Recovery failed.
    #[error("the store could not be recovered: {0}")]
    Recovery(#[from] FsError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_refuses_for_want_of_space_is_passed_on() {
        let disk = |errno: Errno| FsError::Disk { what: "writing an object", source: errno.into() };
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert_eq!(disk(errno).errno(), errno);
        }
        // What a program can't do anything about, among it what only a network file system would say.
        for errno in [Errno::STALE, Errno::NOENT, Errno::PERM, Errno::ROFS, Errno::INTR] {
            assert_eq!(disk(errno).errno(), Errno::IO);
        }
    }
}
