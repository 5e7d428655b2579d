//! Compares a volume with the model.

use std::collections::BTreeMap;

use fs::volume::Volume;
use proto::record::Kind;

use super::perform::Numbers;
use crate::common::dump::content;
use crate::common::posix::{Ino, Posix, When};

/// What every inode shows. Times that the model knows roughly are known exactly from now on.
pub fn attributes(volume: &Volume, model: &mut Posix, numbers: &Numbers) {
    let shown: Vec<(Ino, u32, u64)> =
        model.nodes.keys().map(|ino| (*ino, model.nlink(*ino), model.size(*ino))).collect();
    for (ino, nlink, size) in shown {
        let node = model.nodes.get_mut(&ino).expect("an inode");
        let attr = volume.getattr(numbers.file(ino)).unwrap_or_else(|error| panic!("{ino:?}: {error}"));
        let got = (&attr.kind, attr.perms, attr.nlink, attr.size);
        assert!(got == (&node.kind, node.perms, nlink, size), "{ino:?} is {attr:?} instead of {nlink} {size} {node:?}");
        let times = [
            ("access", &mut node.atime, attr.atime),
            ("modification", &mut node.mtime, attr.mtime),
            ("change", &mut node.ctime, attr.ctime),
            ("birth", &mut node.btime, attr.btime),
        ];
        for (what, when, got) in times {
            assert!(when.can_be(got), "the {what} time of {ino:?} is {got:?} instead of {when:?}");
            *when = When::exactly(got);
        }
    }
}

/// As far as a site without handles shows it: names and all that they lead to, with contents and extended attributes.
pub fn tree(volume: &Volume, model: &mut Posix, numbers: &Numbers) {
    let mut model = {
        attributes_of_named(volume, model, numbers);
        model.clone()
    };
    model.nodes.retain(|_, node| node.links > 0);
    for (ino, node) in &model.nodes {
        let file = numbers.file(*ino);
        let xattrs: BTreeMap<Vec<u8>, Vec<u8>> = volume
            .listxattr(file)
            .expect("names")
            .into_iter()
            .map(|name| (name.to_vec(), volume.getxattr(file, &name).expect("a value").to_vec()))
            .collect();
        assert!(
            xattrs == node.xattrs,
            "the extended attributes of {ino:?} are {xattrs:?} instead of {:?}",
            node.xattrs
        );
        match &node.kind {
            Kind::Regular => bytes(volume, &model, numbers, *ino),
            Kind::Symlink(target) => assert_eq!(volume.readlink(file).ok().as_ref(), Some(target), "{ino:?}"),
            Kind::Directory => {
                let line = |entry: fs::types::DirEntry| (entry.name.as_bytes().to_vec(), entry.file);
                let got: BTreeMap<_, _> = volume.list(file).expect("a listing").into_iter().map(line).collect();
                let expected: BTreeMap<_, _> =
                    node.names.iter().map(|(name, ino)| (name.clone(), numbers.file(*ino))).collect();
                assert_eq!(got, expected, "names in {ino:?}");
                let above = numbers.file(node.parent.unwrap_or(Ino::ROOT));
                assert_eq!(volume.parent(file).ok(), Some(above), "the directory above {ino:?}");
            }
            _ => {}
        }
    }
}

fn attributes_of_named(volume: &Volume, model: &mut Posix, numbers: &Numbers) {
    let mut named = model.clone();
    named.nodes.retain(|_, node| node.links > 0);
    attributes(volume, &mut named, numbers);
    model.nodes.extend(named.nodes);
}

/// A file's bytes, and that its holes are holes.
pub fn bytes(volume: &Volume, model: &Posix, numbers: &Numbers, ino: Ino) {
    let node = &model.nodes[&ino];
    let (bytes, data) = content(volume, numbers.file(ino));
    if bytes != *node.data {
        let at = bytes.iter().zip(&*node.data).take_while(|(got, expected)| got == expected).count();
        let (got, expected) = (bytes.get(at), node.data.get(at));
        panic!("byte {at} of {ino:?} is {got:?} instead of {expected:?}; {} bytes, {}", bytes.len(), node.data.len());
    }
    for (start, end) in data {
        let wrong = (start / 4096..end.div_ceil(4096)).find(|page| !node.pages.0.contains(page));
        assert!(wrong.is_none(), "page {wrong:?} of {ino:?} is data, and was never written or was made a hole");
    }
}
