//! Makes a call to a volume and to the model, and compares the answers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use fs::error::FsError;
use fs::types::{Attr, HandleId, OpenFlags};
use fs::volume::Volume;
use proto::ids::FileId;
use proto::record::{Kind, Time};
use rustix::io::Errno;

use super::Call;
use crate::common::posix::attributes::COMPUTED;
use crate::common::posix::{Answer, Fd, Ino, Posix, When};

/// What the model's numbers are in the volume.
#[derive(Default)]
pub struct Numbers {
    pub files: BTreeMap<Ino, FileId>,
    pub handles: BTreeMap<Fd, HandleId>,
}

impl Numbers {
    pub fn file(&self, ino: Ino) -> FileId {
        self.files[&ino]
    }

    /// One that is not open is answered EBADF.
    fn handle(&self, fd: Fd) -> HandleId {
        self.handles.get(&fd).copied().unwrap_or(HandleId(u64::MAX))
    }
}

pub fn clock() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

fn answer<T>(result: Result<T, FsError>) -> Answer<T> {
    result.map_err(|error| {
        let is_failure = matches!(error, FsError::Damaged(_) | FsError::ReadOnly(_) | FsError::PeersLack(_));
        assert!(!is_failure, "{error}");
        error.errno()
    })
}

fn same<T: PartialEq + Debug>(got: Answer<T>, expected: Answer<T>) {
    assert!(got == expected, "answered {got:?} instead of {expected:?}");
}

/// Panics where the answers differ. Attributes and contents are compared by [`super::check`].
pub fn perform(call: &Call, volume: &Volume, model: &mut Posix, numbers: &mut Numbers) {
    let before = clock();
    let mut made: Option<Attr> = None;
    let done = || When { earliest: before, latest: clock() };
    match call.clone() {
        Call::Make { new, by, dir, name, kind, mode } => {
            let got = answer(volume.create(by, numbers.file(dir), &name.0, kind.clone(), mode));
            model.now = done();
            same(got.as_ref().map(|_| ()).map_err(|error| *error), model.make(new, by, dir, &name.0, &kind, mode));
            made = got.ok();
            numbers.files.extend(made.as_ref().map(|attr| (new, attr.file)));
        }
        Call::Create { new, fd, by, dir, name, mode, flags } => {
            let got = answer(volume.create_open(by, numbers.file(dir), &name.0, mode, flags));
            model.now = done();
            // There is nothing to empty in a new file.
            let flags = OpenFlags { truncate: false, ..flags };
            let expected =
                model.make(new, by, dir, &name.0, &Kind::Regular, mode).and_then(|()| model.open(fd, new, flags));
            same(got.as_ref().map(|_| ()).map_err(|error| *error), expected);
            if let Ok((attr, handle)) = got {
                numbers.files.insert(new, attr.file);
                numbers.handles.insert(fd, handle);
                made = Some(attr);
            }
        }
        Call::Link { ino, dir, name } => {
            let got = answer(volume.link(numbers.file(ino), numbers.file(dir), &name.0));
            model.now = done();
            same(got.map(drop), model.link(ino, dir, &name.0));
        }
        Call::Unlink { dir, name } => {
            let got = answer(volume.unlink(numbers.file(dir), &name.0));
            model.now = done();
            same(got, model.unlink(dir, &name.0));
        }
        Call::Rmdir { dir, name } => {
            let got = answer(volume.rmdir(numbers.file(dir), &name.0));
            model.now = done();
            same(got, model.rmdir(dir, &name.0));
        }
        Call::Rename { dir, name, to, new_name, mode } => {
            let got = answer(volume.rename(numbers.file(dir), &name.0, numbers.file(to), &new_name.0, mode));
            model.now = done();
            same(got, model.rename((dir, &name.0), (to, &new_name.0), mode));
        }
        Call::Lookup { dir, name } => {
            let got = answer(volume.lookup(numbers.file(dir), &name.0));
            same(got.map(|attr| attr.file), model.lookup(dir, &name.0).map(|ino| numbers.file(ino)));
        }
        Call::List { dir } => {
            let got = answer(volume.list(numbers.file(dir)));
            let line = |(name, ino): (Vec<u8>, Ino)| (name, numbers.file(ino));
            let mut expected = model.list(dir).map(|list| list.into_iter().map(line).collect::<Vec<_>>());
            let mut got = got.map(|list| {
                list.into_iter().map(|entry| (entry.name.as_bytes().to_vec(), entry.file)).collect::<Vec<_>>()
            });
            got.iter_mut().chain(&mut expected).for_each(|list| list.sort());
            same(got, expected);
        }
        Call::Readlink { ino } => {
            let got = answer(volume.readlink(numbers.file(ino)));
            same(got.map(|target| target.to_vec()), model.readlink(ino));
        }
        Call::Remember { ino } => {
            volume.remember(numbers.file(ino));
            model.nodes.get_mut(&ino).expect("an inode").lookups += 1;
        }
        Call::Forget { ino } => {
            volume.forget(numbers.file(ino), 1);
            model.nodes.get_mut(&ino).expect("an inode").lookups -= 1;
        }
        Call::SetAttr { by, ino, set } => {
            let got = answer(volume.setattr(by, numbers.file(ino), set));
            model.now = done();
            same(got.map(drop), model.setattr(by, ino, set));
        }
        Call::SetXattr { ino, name, value, mode } => {
            let got = answer(volume.setxattr(numbers.file(ino), &name.0, &value.0, mode));
            model.now = done();
            same(got, model.setxattr(ino, &name.0, &value.0, mode));
        }
        Call::GetXattr { ino, name } => {
            let got = answer(volume.getxattr(numbers.file(ino), &name.0)).map(|value| value.to_vec());
            if COMPUTED.contains(&&name.0[..]) {
                assert!(got.is_ok_and(|text| !text.is_empty()), "a computed attribute is empty");
            } else {
                same(got, model.getxattr(ino, &name.0));
            }
        }
        Call::RemoveXattr { ino, name } => {
            let got = answer(volume.removexattr(numbers.file(ino), &name.0));
            model.now = done();
            same(got, model.removexattr(ino, &name.0));
        }
        Call::Open { fd, ino, flags } => {
            let got = answer(volume.open(numbers.file(ino), flags));
            model.now = done();
            same(got.as_ref().map(|_| ()).map_err(|error| *error), model.open(fd, ino, flags));
            numbers.handles.extend(got.ok().map(|handle| (fd, handle)));
        }
        Call::Release { fd } => {
            same(answer(volume.release(numbers.handle(fd))), model.release(fd));
            numbers.handles.remove(&fd);
        }
        Call::Flush { fd } => same(answer(volume.flush(numbers.handle(fd))), model.sync(fd)),
        Call::Fsync { fd } => same(answer(volume.fsync(numbers.handle(fd))), model.sync(fd)),
        Call::FsyncDir { dir } => answer(volume.fsyncdir(numbers.file(dir))).expect("synced"),
        Call::Read { fd, offset, len } => {
            same(answer(volume.read(numbers.handle(fd), offset, len)), model.read(fd, offset, len));
        }
        Call::Write { fd, offset, fill, kill_suid } => {
            let bytes = fill.bytes();
            let got = answer(volume.write(numbers.handle(fd), offset, &bytes, kill_suid));
            model.now = done();
            same(got, model.write(fd, offset, &bytes, kill_suid));
        }
        Call::Allocate { fd, offset, len, how, kill_suid } => {
            let got = answer(volume.fallocate(numbers.handle(fd), offset, len, how, kill_suid));
            model.now = done();
            same(got, model.allocate(fd, offset, len, how, kill_suid));
        }
        Call::Seek { fd, offset, whence } => {
            let got = answer(volume.seek(numbers.handle(fd), offset, whence));
            model.check_seek(fd, offset, whence, got).unwrap_or_else(|why| panic!("answered {got:?} {why}"));
        }
        Call::Copy { from, at, to, to_at, len, kill_suid } => {
            let (source, target) = (numbers.handle(from), numbers.handle(to));
            let got = answer(volume.copy_range(source, at, target, to_at, len, kill_suid));
            model.now = done();
            same(got, model.copy((from, at), (to, to_at), len, kill_suid));
        }
        Call::StatFs => {
            let stat = answer::<_>(volume.statfs()).expect("numbers");
            assert!(stat.block_bytes > 0 && stat.free <= stat.blocks && stat.available <= stat.free, "{stat:?}");
        }
    }
    if let Some(attr) = made {
        let now = answer(volume.getattr(attr.file)).map_err(|error: Errno| panic!("{error}"));
        assert_eq!(now, Ok(attr), "the answer shows other attributes than getattr");
    }
    model.forget_unreachable();
}
