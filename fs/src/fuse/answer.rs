//! Results as answers to the kernel.

use fuser::{Errno, ReplyAttr, ReplyEmpty, ReplyStatfs, ReplyWrite, ReplyXattr};
use proto::name::Name;

use super::attributes::XattrAnswer;
use super::convert::{TTL, errno, file_attr};
use crate::error::FsError;
use crate::types::{Attr, StatFs};

/// The number for the program. What the program can't have caused is logged here, where it is handled.
pub fn refusal(error: &FsError) -> Errno {
    match error {
        FsError::Disk { .. } | FsError::Damaged(_) => tracing::error!("a request failed: {error}"),
        // That the peer was given up is in the log, once.
        FsError::PeersLack(_) => tracing::debug!("a request failed: {error}"),
        _ => {}
    }
    errno(error)
}

/// Done, or why not.
pub fn answer_empty(result: Result<(), FsError>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(refusal(&error)),
    }
}

/// The attributes, for the kernel to keep.
pub fn answer_attr(result: Result<Attr, FsError>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
        Err(error) => reply.error(refusal(&error)),
    }
}

/// How many bytes.
pub fn answer_written(result: Result<u32, FsError>, reply: ReplyWrite) {
    match result {
        Ok(written) => reply.written(written),
        Err(error) => reply.error(refusal(&error)),
    }
}

/// The attribute or its size.
pub fn answer_xattr(result: Result<XattrAnswer, FsError>, reply: ReplyXattr) {
    match result {
        Ok(XattrAnswer::Size(size)) => reply.size(size),
        Ok(XattrAnswer::Data(bytes)) => reply.data(&bytes),
        Err(error) => reply.error(refusal(&error)),
    }
}

/// The space there is.
pub fn answer_statfs(result: Result<StatFs, FsError>, reply: ReplyStatfs) {
    match result {
        Ok(stat) => {
            let (block, name) = (stat.block_bytes, Name::MAX_BYTES as u32);
            reply.statfs(stat.blocks, stat.free, stat.available, stat.files, stat.files_free, block, name, block);
        }
        Err(error) => reply.error(refusal(&error)),
    }
}
