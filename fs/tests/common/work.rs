//! Random operations of a program at one site, among few names, so that they meet.

use fs::error::FsError;
use fs::types::{Allocate, Attr, Caller, HandleId, OpenFlags, RenameMode, SetAttr, SetTime, XattrMode};
use fs::volume::Volume;
use proto::ids::{FileId, Lane, Seq};
use proto::record::{Kind, Time};

use super::Rng;
use super::network::heads;

pub const ROOT: Caller = Caller { uid: 0, gid: 0 };
const USER: Caller = Caller { uid: 1000, gid: 100 };
pub const READ_WRITE: OpenFlags = OpenFlags { read: true, write: true, append: false, truncate: false, sync: false };
const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"f"];

/// Parts of a policy that change no lane, and for which nobody waits long.
const QUIET_POLICIES: [(&str, &str); 7] = [
    ("compress", "on"),
    ("compress", "off"),
    ("acks", "majority"),
    ("acks", "2"),
    ("timeout", "2ms"),
    ("on-loss", "degrade"),
    ("on-loss", "nonsense"),
];

/// More than any test makes.
const MAX_FOUND: usize = 100_000;

/// Everything that a walk from the root finds, without names that begin with a dot: those are for tests that want them left alone.
pub fn walk(volume: &Volume) -> Vec<(FileId, Vec<u8>, Attr)> {
    let mut found = Vec::new();
    let mut todo = vec![FileId::ROOT];
    // Beside other threads a walk may stand in directories that become a cycle under it: each is looked at once.
    let mut passed = std::collections::HashSet::new();
    while let Some(dir) = todo.pop().filter(|_| found.len() < MAX_FOUND) {
        if !passed.insert(dir) {
            continue;
        }
        for entry in volume.list(dir).unwrap_or_default() {
            if entry.name.as_bytes().starts_with(b".") {
                continue;
            }
            // Gone meanwhile, where there are other threads.
            let Ok(attr) = volume.lookup(dir, entry.name.as_bytes()) else { continue };
            if attr.kind == Kind::Directory {
                todo.push(attr.file);
            }
            found.push((dir, entry.name.as_bytes().to_vec(), attr));
        }
    }
    found
}

/// A write that was one record.
pub struct Written {
    pub lane: Lane,
    pub seq: Seq,
    pub bytes: Vec<u8>,
}

/// Open handles survive operations, not crashes.
#[derive(Default)]
pub struct Program {
    handles: Vec<(FileId, HandleId)>,
    /// Whether it changes the policies of directories.
    policies: bool,
}

/// Attributes of a policy that decide on the lane, and their values.
pub const POLICIES: [(&[u8], [&[u8]; 3]); 2] =
    [(b"user.syncline.mode", [b"sync", b"async", b"sync"]), (b"user.syncline.priority", [b"high", b"normal", b"bulk"])];

/// Policies are in use, and nobody waits for other sites that don't answer.
pub fn use_policies(volume: &Volume) {
    volume.setxattr(FileId::ROOT, b"user.syncline.timeout", b"1ms", XattrMode::Set).expect("set");
}

impl Program {
    /// One that changes policies, too, so that its records take several lanes.
    pub fn with_policies() -> Self {
        Self { policies: true, ..Self::default() }
    }

    pub fn crashed(&mut self) {
        self.handles.clear();
    }

    pub fn close_all(&mut self, volume: &Volume) {
        for (_, handle) in self.handles.drain(..) {
            volume.release(handle).expect("released");
        }
    }

    /// One operation. Answers the bytes of a write that was one record.
    pub fn step(&mut self, volume: &Volume, rng: &mut Rng) -> Option<Written> {
        match self.try_step(volume, rng) {
            Ok(written) => written,
            Err(FsError::Damaged(why)) => panic!("site {}: damaged: {why}", volume.site()),
            Err(error @ (FsError::ReadOnly(_) | FsError::Disk { .. })) => panic!("site {}: {error}", volume.site()),
            Err(_) => None,
        }
    }

    /// As [`step`](Self::step) where others change the tree at the same time: what was listed may be gone.
    pub fn step_beside_others(&mut self, volume: &Volume, rng: &mut Rng) {
        match self.try_step(volume, rng) {
            Err(FsError::Damaged(why)) => panic!("site {}: damaged: {why}", volume.site()),
            Err(error @ (FsError::ReadOnly(_) | FsError::Disk { .. })) => panic!("site {}: {error}", volume.site()),
            _ => {}
        }
    }

    fn try_step(&mut self, volume: &Volume, rng: &mut Rng) -> Result<Option<Written>, FsError> {
        let all = walk(volume);
        let mut dirs = vec![FileId::ROOT];
        dirs.extend(all.iter().filter(|(.., attr)| attr.kind == Kind::Directory).map(|(.., attr)| attr.file));
        let files: Vec<FileId> =
            all.iter().filter(|(.., attr)| attr.kind == Kind::Regular).map(|(.., attr)| attr.file).collect();
        let dir = *rng.pick(&dirs).expect("the root");
        let name = *rng.pick(&NAMES).expect("a name");
        let caller = if rng.one_in(3) { USER } else { ROOT };
        let target = rng.pick(&all).cloned();
        let any = target.as_ref().map_or(FileId::ROOT, |(.., attr)| attr.file);
        let file = if !self.handles.is_empty() && rng.one_in(6) {
            rng.pick(&self.handles).map(|(file, _)| *file)
        } else {
            rng.pick(&files).copied()
        };
        if self.policies && rng.one_in(12) {
            let (name, values) = rng.pick(&POLICIES).expect("an attribute");
            match rng.pick(values).filter(|_| !rng.clone().one_in(4)) {
                Some(value) => volume.setxattr(dir, name, value, XattrMode::Set)?,
                None => volume.removexattr(dir, name)?,
            }
            return Ok(None);
        }
        match rng.below(100) {
            0..12 => {
                let (attr, handle) = volume.create_open(caller, dir, name, 0o6755, READ_WRITE)?;
                self.handles.push((attr.file, handle));
                if rng.one_in(2) {
                    return self.write(volume, rng, attr.file);
                }
            }
            12..19 => drop(volume.create(caller, dir, name, Kind::Directory, 0o2755)?),
            19..22 => drop(volume.create(caller, dir, name, Kind::Symlink(b"over/there"[..].into()), 0o777)?),
            22..23 => drop(volume.create(caller, dir, name, Kind::Fifo, 0o600)?),
            23..27 => drop(volume.link(file.unwrap_or(FileId::ROOT), dir, name)?),
            27..37 => {
                if let Some((parent, name, attr)) = target {
                    if attr.kind == Kind::Directory {
                        volume.rmdir(parent, &name)?
                    } else {
                        volume.unlink(parent, &name)?
                    }
                }
            }
            37..52 => {
                if let Some((parent, old, _)) = target {
                    let mode = *rng
                        .pick(&[RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange])
                        .expect("a mode");
                    volume.rename(parent, &old, dir, name, mode)?;
                }
            }
            52..68 => {
                if let Some(file) = file {
                    return self.write(volume, rng, file);
                }
            }
            68..72 => {
                if let (Some(file), Some(from)) = (file, rng.pick(&files).copied()) {
                    return self.copy(volume, rng, from, file);
                }
            }
            72..77 => {
                if let Some(file) = file {
                    let size = Some(if rng.one_in(3) { 0 } else { rng.below(300_000) });
                    volume.setattr(caller, file, SetAttr { size, ..SetAttr::default() })?;
                }
            }
            77..80 => {
                if let Some(file) = file {
                    let handle = volume.open(file, OpenFlags { truncate: true, ..READ_WRITE })?;
                    self.handles.push((file, handle));
                    return self.write(volume, rng, file);
                }
            }
            80..83 => {
                if let Some(file) = file {
                    let handle = volume.open(file, READ_WRITE)?;
                    let (offset, len) = (rng.below(200_000), 1 + rng.below(100_000));
                    let how = match rng.below(3) {
                        0 => Allocate::Punch,
                        1 => Allocate::Zero { keep_size: rng.one_in(2) },
                        _ => Allocate::Punch,
                    };
                    let done = volume.fallocate(handle, offset, len, how, false);
                    volume.release(handle)?;
                    done?;
                }
            }
            83..90 => {
                let at = |rng: &mut Rng| Some(SetTime::At(Time { secs: rng.below(2_000_000_000) as i64, nanos: 5 }));
                let set = match rng.below(4) {
                    0 => SetAttr { mode: Some(rng.below(0o10000) as u32), ..SetAttr::default() },
                    1 => SetAttr { uid: Some(rng.below(5) as u32), gid: Some(7), ..SetAttr::default() },
                    2 => SetAttr { mtime: at(rng), ..SetAttr::default() },
                    _ => SetAttr { atime: at(rng), mtime: Some(SetTime::Now), ..SetAttr::default() },
                };
                volume.setattr(caller, any, set)?;
            }
            90..92 => {
                let (key, value) = rng.pick(&QUIET_POLICIES).expect("a policy");
                let attribute = format!("user.syncline.{key}");
                // Of anything but a directory it is refused. At the root the timeout stays short.
                if any == FileId::ROOT {
                    return Ok(None);
                }
                if rng.one_in(3) {
                    volume.removexattr(any, attribute.as_bytes())?;
                } else {
                    volume.setxattr(any, attribute.as_bytes(), value.as_bytes(), XattrMode::Set)?;
                }
            }
            92..94 => {
                let len = rng.below(200) as usize;
                volume.setxattr(any, [&b"user."[..], name].concat().as_slice(), &rng.bytes(len), XattrMode::Set)?;
            }
            94..96 => volume.removexattr(any, &[&b"user."[..], name].concat())?,
            _ => {
                if !self.handles.is_empty() {
                    let at = rng.below(self.handles.len() as u64) as usize;
                    let (_, handle) = self.handles.swap_remove(at);
                    volume.release(handle)?;
                }
            }
        }
        Ok(None)
    }

    /// Between any two files, or within one.
    fn copy(&mut self, volume: &Volume, rng: &mut Rng, from: FileId, to: FileId) -> Result<Option<Written>, FsError> {
        let (source, target) = (volume.open(from, READ_WRITE)?, volume.open(to, READ_WRITE)?);
        let (from_size, to_size) = (volume.getattr(from)?.size, volume.getattr(to)?.size);
        let from_offset = rng.below(from_size / 2 + 1);
        let to_offset = if rng.one_in(3) { rng.below(to_size + 1) } else { to_size + rng.below(2) * rng.below(9000) };
        // Within one file, not onto itself.
        let most = if from == to { from_offset.abs_diff(to_offset) } else { 300_000 };
        let len = if rng.one_in(4) { rng.below(most + 1) } else { most };
        let expected = volume.read(source, from_offset, len as u32)?;
        let before = heads(volume);
        let done = volume.copy_range(source, from_offset, target, to_offset, len, rng.one_in(2));
        volume.release(source)?;
        volume.release(target)?;
        let copied = done? as usize;
        let made: Vec<(Lane, Seq, u64)> = Lane::ALL
            .into_iter()
            .zip(before)
            .zip(heads(volume))
            .map(|((lane, before), after)| (lane, after, after.0 - before.0))
            .filter(|(.., records)| *records > 0)
            .collect();
        let [(lane, seq, 1)] = made[..] else { return Ok(None) };
        Ok((copied == expected.len()).then_some(Written { lane, seq, bytes: expected }))
    }

    fn write(&mut self, volume: &Volume, rng: &mut Rng, file: FileId) -> Result<Option<Written>, FsError> {
        let flags = OpenFlags { append: rng.one_in(3), ..READ_WRITE };
        let handle = volume.open(file, flags)?;
        let len = match rng.below(6) {
            0 => 1 + rng.below(60),
            1..3 => 1 + rng.below(9000),
            3 => 65_536,
            _ => 65_536 + rng.below(150_000),
        };
        let size = volume.getattr(file)?.size;
        let offset = match rng.below(4) {
            0 => 0,
            1 => size,
            2 => rng.below(size + 1),
            _ => rng.below(400_000),
        };
        let bytes = rng.bytes(len as usize);
        let before = heads(volume);
        let done = volume.write(handle, offset, &bytes, rng.one_in(2));
        volume.release(handle)?;
        let made: Vec<(Lane, Seq, u64)> = Lane::ALL
            .into_iter()
            .zip(before)
            .zip(heads(volume))
            .map(|((lane, before), after)| (lane, after, after.0 - before.0))
            .filter(|(.., records)| *records > 0)
            .collect();
        let whole = done? as usize == bytes.len();
        // A second record may be an answer to a peer, or take capabilities away.
        let [(lane, seq, 1)] = made[..] else { return Ok(None) };
        Ok(Some(Written { lane, seq, bytes }).filter(|_| whole))
    }
}
