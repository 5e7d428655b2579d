//! One site against a simple model of a POSIX file system in memory: the same operations, the same answers and errors, the same tree,
//! with crashes and closes in between.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::dump::{check_rows, content};
use common::model::{Model, Outcome, without_suid};
use common::network::heads;
use common::work::{POLICIES, READ_WRITE, ROOT, use_policies};
use common::{Rng, Site, for_seeds};
use fs::error::FsError;
use fs::types::{Allocate, HandleId, OpenFlags, RenameMode, SetAttr, SetTime, XattrMode};
use fs::volume::Volume;
use proto::ids::{FileId, Lane, LanePoint};
use proto::record::{Kind, Time};

fn errno(error: &FsError) -> &'static str {
    use rustix::io::Errno;
    match error.errno() {
        Errno::NOENT => "NOENT",
        Errno::EXIST => "EXIST",
        Errno::NOTDIR => "NOTDIR",
        Errno::ISDIR => "ISDIR",
        Errno::NOTEMPTY => "NOTEMPTY",
        Errno::INVAL => "INVAL",
        Errno::PERM => "PERM",
        Errno::NODATA => "NODATA",
        Errno::FBIG => "FBIG",
        Errno::NXIO => "NXIO",
        Errno::NAMETOOLONG => "NAMETOOLONG",
        _ => panic!("unexpected: {error}"),
    }
}

struct Run {
    site: Site,
    model: Model,
    rng: Rng,
    handles: Vec<(FileId, HandleId)>,
    /// Every file that was ever there, for operations on what is gone.
    known: Vec<FileId>,
}

const NAMES: [&[u8]; 7] = [b"a", b"b", b"c", b"d", b"e", b"f", b"a name with \xff and \n"];

impl Run {
    fn step(&mut self) {
        let volume = self.site.volume().clone();
        let dirs: Vec<FileId> =
            self.model.nodes.iter().filter(|(_, n)| n.kind == Kind::Directory).map(|(f, _)| *f).collect();
        let regular: Vec<FileId> =
            self.model.nodes.iter().filter(|(_, n)| n.kind == Kind::Regular && n.nlink > 0).map(|(f, _)| *f).collect();
        let rng = &mut self.rng;
        // Mostly a directory; sometimes anything.
        let (dir, other) = if rng.one_in(25) {
            (*rng.pick(&self.known).expect("the root"), *rng.pick(&dirs).expect("the root"))
        } else {
            (*rng.pick(&dirs).expect("the root"), *rng.pick(&dirs).expect("the root"))
        };
        let (name, new_name) = (*rng.pick(&NAMES).expect("a name"), *rng.pick(&NAMES).expect("a name"));
        let node = *rng.pick(&self.known).expect("the root");
        // What has no name and no handle may be reclaimed at any time.
        let usable = |file: &FileId, model: &Model, handles: &[(FileId, HandleId)]| {
            model.nodes.get(file).is_some_and(|node| node.nlink > 0) || handles.iter().any(|(open, _)| open == file)
        };
        if !usable(&dir, &self.model, &self.handles)
            || !usable(&other, &self.model, &self.handles)
            || !usable(&node, &self.model, &self.handles)
        {
            return;
        }
        let model = &mut self.model;
        let (got, expected, what): (Result<(), FsError>, Outcome, String) = match rng.below(100) {
            0..18 => {
                let kind = match rng.below(8) {
                    0..2 => Kind::Directory,
                    2 => Kind::Symlink(b"somewhere"[..].into()),
                    3 => Kind::CharDevice(0x103),
                    _ => Kind::Regular,
                };
                let mode = rng.below(0o10000) as u32;
                let made = volume.create(ROOT, dir, name, kind.clone(), mode);
                let expected = model.free(dir, name);
                if let (Ok(attr), Ok(())) = (&made, expected) {
                    let setgid = model.nodes[&dir].mode & 0o2000 != 0;
                    let mode = match kind {
                        Kind::Symlink(_) => 0o777,
                        Kind::Directory if setgid => mode | 0o2000,
                        _ => mode,
                    };
                    let gid = if setgid { model.nodes[&dir].owner.1 } else { 0 };
                    model.nodes.insert(attr.file, Model::node(kind.clone(), mode, (0, gid)));
                    model.add(dir, name, attr.file);
                    self.known.push(attr.file);
                }
                (made.map(drop), expected, format!("create {kind:?} {dir}/{name:?}"))
            }
            18..24 => {
                let expected = if model.is_dir(node) {
                    model.dir(dir).map(drop).and(Err("PERM"))
                } else if model.nodes[&node].nlink == 0 {
                    model.dir(dir).map(drop).and(Err("NOENT"))
                } else {
                    model.free(dir, name)
                };
                if expected.is_ok() {
                    model.file(node).nlink += 1;
                    model.add(dir, name, node);
                }
                (volume.link(node, dir, name).map(drop), expected, format!("link {node} {dir}/{name:?}"))
            }
            24..32 => (volume.unlink(dir, name), model.unlink(dir, name, false), format!("unlink {dir}/{name:?}")),
            32..36 => (volume.rmdir(dir, name), model.unlink(dir, name, true), format!("rmdir {dir}/{name:?}")),
            36..50 => {
                let modes = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let mode = *rng.pick(&modes).expect("a mode");
                let got = volume.rename(dir, name, other, new_name, mode);
                let what = format!("rename {dir}/{name:?} {other}/{new_name:?} {mode:?}");
                (got, model.rename((dir, name), (other, new_name), mode), what)
            }
            50..70 => {
                let open = self.handles.iter().map(|(file, _)| *file).collect::<Vec<_>>();
                let Some(file) = (if rng.one_in(3) { rng.pick(&open) } else { rng.pick(&regular) }).copied() else {
                    return;
                };
                let append = rng.one_in(4);
                let handle = volume.open(file, OpenFlags { append, ..READ_WRITE }).expect("opened");
                let size = model.nodes[&file].data.len();
                let offset = match rng.below(3) {
                    0 => size,
                    1 => rng.below(size as u64 + 1) as usize,
                    _ => rng.below(300_000) as usize,
                };
                let len = if rng.one_in(4) { 65_536 + rng.below(100_000) } else { rng.below(3000) };
                let (bytes, kill) = (rng.bytes(len as usize), rng.one_in(2));
                let wrote = volume.write(handle, offset as u64, &bytes, kill).expect("written");
                assert_eq!(wrote as usize, bytes.len());
                if !bytes.is_empty() {
                    model.write(file, if append { size } else { offset }, &bytes, kill);
                }
                volume.release(handle).expect("released");
                return;
            }
            70..76 => {
                let size = if rng.one_in(3) { 0 } else { rng.below(200_000) };
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                let expected = model.resize(node, size as usize, false);
                (volume.setattr(ROOT, node, set).map(drop), expected, format!("truncate {node} {size}"))
            }
            76..80 => {
                let Some(file) = rng.pick(&regular).copied() else { return };
                let handle = volume.open(file, READ_WRITE).expect("opened");
                let (offset, len) = (rng.below(150_000), 1 + rng.below(90_000));
                let size = model.nodes[&file].data.len();
                let end = (offset + len) as usize;
                let (how, grow) = match rng.below(4) {
                    0 => (Allocate::Punch, false),
                    1 => (Allocate::Zero { keep_size: false }, true),
                    2 => (Allocate::Reserve { keep_size: false }, true),
                    _ => (Allocate::Reserve { keep_size: true }, false),
                };
                let kill = rng.one_in(2);
                volume.fallocate(handle, offset, len, how, kill).expect("allocated");
                model.changed(file, kill);
                if !matches!(how, Allocate::Reserve { .. }) && (offset as usize) < size {
                    let zeros = vec![0; end.min(size) - offset as usize];
                    model.write(file, offset as usize, &zeros, kill);
                }
                if grow && end > size {
                    model.resize(file, end, kill).expect("regular");
                }
                volume.release(handle).expect("released");
                return;
            }
            80..88 => {
                let time = Time {
                    secs: rng.below(4_000_000_000) as i64 - 1_000_000_000,
                    nanos: rng.below(1_000_000_000) as u32,
                };
                let set = match rng.below(3) {
                    0 => SetAttr { mode: Some(rng.below(0o10000) as u32), ..SetAttr::default() },
                    1 => SetAttr { uid: Some(rng.below(3) as u32), ..SetAttr::default() },
                    _ => SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() },
                };
                let attr = volume.setattr(ROOT, node, set).expect("set");
                let node = model.file(node);
                if let Some(uid) = set.uid {
                    node.owner.0 = uid;
                    node.xattrs.remove(&b"security.capability"[..]);
                    if node.kind != Kind::Directory {
                        node.mode = without_suid(node.mode);
                    }
                }
                node.mode = set.mode.unwrap_or(node.mode);
                if set.mtime.is_some() {
                    node.mtime = Some(time);
                    assert_eq!(attr.mtime, time);
                }
                return;
            }
            88..90 if model.is_dir(node) => {
                // Some records go in other lanes from now on.
                let (name, values) = rng.pick(&POLICIES).expect("an attribute");
                let value = *rng.pick(values).expect("a value");
                model.file(node).xattrs.insert(name.to_vec(), value.to_vec());
                let set = volume.setxattr(node, name, value, XattrMode::Set);
                (set, Ok(()), format!("setxattr {node} {name:?}"))
            }
            88..94 => {
                let name = if rng.one_in(4) { b"security.capability".to_vec() } else { [&b"user."[..], name].concat() };
                let value = rng.bytes(20);
                let mode = *rng.pick(&[XattrMode::Set, XattrMode::Create, XattrMode::Replace]).expect("a mode");
                let xattrs = &mut model.file(node).xattrs;
                let expected = match (mode, xattrs.contains_key(&name)) {
                    (XattrMode::Create, true) => Err("EXIST"),
                    (XattrMode::Replace, false) => Err("NODATA"),
                    _ => {
                        xattrs.insert(name.clone(), value.clone());
                        Ok(())
                    }
                };
                (volume.setxattr(node, &name, &value, mode), expected, format!("setxattr {node} {name:?} {mode:?}"))
            }
            94..96 => {
                let name = [&b"user."[..], name].concat();
                let expected = model.file(node).xattrs.remove(&name).map(drop).ok_or("NODATA");
                (volume.removexattr(node, &name), expected, format!("removexattr {node} {name:?}"))
            }
            96..98 => {
                let Some(file) = rng.pick(&regular).copied() else { return };
                let truncate = rng.one_in(4);
                let handle = volume.open(file, OpenFlags { truncate, ..READ_WRITE }).expect("opened");
                if truncate {
                    model.resize(file, 0, false).expect("regular");
                }
                self.handles.push((file, handle));
                return;
            }
            _ => {
                if let Some((_, handle)) = self.handles.pop() {
                    volume.release(handle).expect("released");
                    self.forget_removed();
                }
                return;
            }
        };
        let got = got.as_ref().map(|_| ()).map_err(errno);
        // `link` checks the inode and the directory in an order of its own.
        let both = [got, expected].iter().all(Result::is_err) && what.starts_with("link");
        assert!(got == expected || both, "{what}: got {got:?}, expected {expected:?}");
        self.forget_removed();
    }

    /// What has neither name nor handle is out of reach.
    fn forget_removed(&mut self) {
        let open: BTreeSet<FileId> = self.handles.iter().map(|(file, _)| *file).collect();
        self.model.nodes.retain(|file, node| node.nlink > 0 || open.contains(file));
        let nodes = &self.model.nodes;
        self.known.retain(|file| nodes.contains_key(file));
    }

    fn compare(&self) {
        let volume = self.site.volume();
        for (file, node) in &self.model.nodes {
            let attr = volume.getattr(*file).unwrap_or_else(|error| panic!("{file}: {error}"));
            let got = (&attr.kind, attr.perms.mode, (attr.perms.uid, attr.perms.gid), attr.nlink);
            assert_eq!(got, (&node.kind, node.mode, node.owner, node.nlink), "{file}");
            if let Some(mtime) = node.mtime {
                assert_eq!(attr.mtime, mtime, "{file}");
            }
            let names: BTreeSet<_> =
                volume.listxattr(*file).expect("a list").into_iter().map(|name| name.to_vec()).collect();
            assert_eq!(names, node.xattrs.keys().cloned().collect(), "{file}");
            for (name, value) in &node.xattrs {
                assert_eq!(&volume.getxattr(*file, name).expect("a value")[..], &value[..]);
            }
            match &node.kind {
                Kind::Regular => {
                    assert_eq!(attr.size as usize, node.data.len(), "{file}");
                    assert!(content(volume, *file).0 == node.data, "content of {file}");
                }
                Kind::Directory => {
                    let listed = volume.list(*file).expect("a listing").into_iter();
                    let listed: BTreeMap<_, _> =
                        listed.map(|entry| (entry.name.as_bytes().to_vec(), entry.file)).collect();
                    assert_eq!(listed, node.names, "{file}");
                }
                Kind::Symlink(target) => assert_eq!(&volume.readlink(*file).expect("a target"), target),
                _ => {}
            }
        }
    }

    /// As the replicator of a site without peers: nobody needs the journal.
    fn alone(&self) {
        let volume = self.site.volume();
        for (lane, seq) in Lane::ALL.into_iter().zip(heads(volume)) {
            volume.set_watermark(lane, seq);
            volume.set_stable(self.site.id, lane, LanePoint { incarnation: volume.incarnation(), seq });
        }
    }
}

fn run(seed: u64) {
    let site = Site::new(1);
    use_policies(site.volume());
    let mut run =
        Run { site, model: Model::new(), rng: Rng::new(seed), handles: Vec::new(), known: vec![FileId::ROOT] };
    run.model.file(FileId::ROOT).xattrs.insert(b"user.syncline.timeout".to_vec(), b"1ms".to_vec());
    for step in 0..1500 {
        run.step();
        if run.rng.one_in(150) {
            run.handles.clear();
            run.forget_removed();
            let cleanly = run.rng.one_in(3);
            run.site.restart(cleanly);
            run.compare();
        }
        if run.rng.one_in(100) {
            run.alone();
        }
        if step % 100 == 0 {
            run.compare();
        }
    }
    run.compare();
    check_rows(&run.site, false);
    let volume: &Volume = run.site.volume();
    run.handles.drain(..).for_each(|(_, handle)| volume.release(handle).expect("released"));
    run.alone();
    check_rows(&run.site, true);
    common::dump::check_drained(&mut run.site);
}

#[test]
fn a_site_does_what_a_simple_file_system_does() {
    for_seeds("model", 15, 1, run);
}
