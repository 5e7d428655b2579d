//! All of a site's state, as far as it must be the same everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bytes::Bytes;
use fs::content::objects::{Found, Objects};
use fs::store::db::Db;
use fs::store::table::{self, Table};
use fs::tree::entry::{Candidates, Entry};
use fs::tree::inode::Inode;
use fs::tree::xattr::Xattr;
use fs::types::{OpenFlags, Whence};
use fs::volume::Volume;
use proto::codec::Reader;
use proto::ids::FileId;
use proto::record::Kind;

use super::Site;
use super::policies::Rows;

pub const READ: OpenFlags = OpenFlags { read: true, write: false, append: false, truncate: false, sync: false };

/// Lines by thing: sites are compared line by line, so that a difference says what differs.
#[derive(Default)]
pub struct Dump {
    pub lines: BTreeMap<String, String>,
    /// Bytes of each file that are not in holes.
    pub data_bytes: BTreeMap<FileId, u64>,
    /// Things that wait for all sites.
    pub garbage: usize,
}

impl Dump {
    /// What differs from `other`.
    pub fn diff(&self, other: &Dump) -> String {
        let mut out = String::new();
        for key in self.lines.keys().chain(other.lines.keys()).collect::<BTreeSet<_>>() {
            let (a, b) = (self.lines.get(key), other.lines.get(key));
            if a != b {
                let none = "-".to_owned();
                let (a, b) = (a.unwrap_or(&none), b.unwrap_or(&none));
                let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
                let from = same.saturating_sub(120);
                let (a, b) = (a.get(from..).unwrap_or(a), b.get(from..).unwrap_or(b));
                writeln!(out, "{key}\n    {a:.400}\n    {b:.400}").expect("a string");
            }
        }
        // A hole begins and ends where a page does. Whether the rest of a page that was written in pieces, and emptied again, is a hole depends on
        // what recovery could leave out.
        for (file, bytes) in &self.data_bytes {
            let there = other.data_bytes.get(file).copied().unwrap_or(0);
            if bytes.abs_diff(there) > ODD_PAGES * 4096 {
                writeln!(out, "data of {file}: {bytes} and {there} bytes").expect("a string");
            }
        }
        out
    }
}

const ODD_PAGES: u64 = 16;

/// A file's bytes and its data segments.
pub fn content(volume: &Volume, file: FileId) -> (Vec<u8>, Vec<(u64, u64)>) {
    let handle = volume.open(file, READ).expect("a handle");
    let size = volume.getattr(file).expect("an inode").size;
    let bytes = volume.read(handle, 0, size as u32 + 1).expect("bytes");
    let mut data = Vec::new();
    let mut at = 0;
    while let Ok(start) = volume.seek(handle, at, Whence::Data) {
        let end = volume.seek(handle, start, Whence::Hole).expect("a hole behind data");
        data.push((start, end));
        at = end;
    }
    volume.release(handle).expect("released");
    (bytes, data)
}

/// All rows of names and inodes.
pub fn rows(volume: &std::sync::Arc<Volume>) -> Vec<(Table, Bytes, Bytes)> {
    let mut rows = Vec::new();
    for chunk in volume.snapshot().expect("a snapshot") {
        let mut reader = Reader::new(chunk.expect("a chunk"));
        match reader.u8("tag").expect("a tag") {
            1 => {}
            // Content follows all rows.
            2 => break,
            _ => continue,
        }
        let table = Table::from_u8(reader.u8("table").expect("a table")).expect("a table");
        while reader.remaining() > 0 {
            let key = reader.bytes(1 << 20, "key").expect("a key");
            rows.push((table, key, reader.bytes(1 << 20, "value").expect("a value")));
        }
    }
    rows
}

fn id(key: &[u8]) -> FileId {
    FileId(table::read_u64(&key[..8], "id").expect("an id"))
}

/// Everything that is not removed, from the rows; contents through the volume.
pub fn dump(site: &Site) -> Dump {
    let volume = site.volume();
    let mut dump = Dump::default();
    let rows = rows(volume);
    let inode = |row: &Bytes| Inode::decode(row.clone()).expect("an inode");
    let inodes = rows.iter().filter(|(table, ..)| *table == Table::Inode);
    let live: BTreeSet<FileId> = inodes
        .map(|(_, key, row)| (id(key), inode(row)))
        .filter(|(file, inode)| inode.is_linked(*file))
        .map(|(file, _)| file)
        .collect();
    for (table, key, row) in rows {
        if matches!(table, Table::Inode | Table::Xattr) && !live.contains(&id(&key)) {
            continue;
        }
        match table {
            Table::Inode => {
                let file = id(&key);
                let mut i = inode(&row);
                if file == FileId::ROOT {
                    // Each store of these tests was made by itself.
                    i.btime = i.atime;
                }
                let line = format!(
                    "{:?} perms {:?} {:?} atime {:?} mtime {:?} {:?} ctime {:?} btime {:?} nlink {} subdirs {} size {} content {:?}",
                    i.kind,
                    i.perms,
                    i.perms_stamp,
                    i.atime,
                    i.mtime,
                    i.mtime_stamp,
                    i.ctime,
                    i.btime,
                    i.nlink,
                    i.subdirs,
                    i.size,
                    i.content
                );
                dump.lines.insert(format!("inode {file}"), line);
                if i.kind == Kind::Regular {
                    let (bytes, data) = content(volume, file);
                    assert_eq!(bytes.len() as u64, i.size, "site {}: length of {file}", site.id);
                    let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
                    dump.lines.insert(format!("content {file}"), format!("{hash:x}"));
                    dump.data_bytes.insert(file, data.iter().map(|(start, end)| end - start).sum());
                }
            }
            Table::Entry => {
                let e = Entry::decode(row).expect("an entry");
                let line = format!("{}/{:?} file {} {:?}", e.parent, e.name, e.file, e.stamp);
                if e.is_alive() {
                    dump.lines.insert(format!("entry {key:?}"), line);
                }
            }
            Table::Name => {
                let name = table::name_of_key(&key).expect("a name");
                let candidates = Candidates::decode(row).expect("candidates");
                dump.lines.insert(format!("name {}/{name:?}", id(&key)), format!("{candidates:?}"));
            }
            Table::Xattr => {
                let xattr = Xattr::decode(row).expect("an attribute");
                dump.lines.insert(format!("xattr {} {:?}", id(&key), &key.slice(8..)), format!("{xattr:?}"));
            }
            Table::Link => drop(dump.lines.insert(format!("link {key:?}"), String::new())),
            Table::Garbage => dump.garbage += 1,
            other => panic!("a snapshot has rows of {other:?}"),
        }
    }
    dump
}

/// What must hold at each site at any time when nothing runs: every row that should have a counterpart has it.
pub fn check_rows(site: &Site, complete: bool) {
    let volume = site.volume();
    let (mut inodes, mut entries, mut names) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let (mut link_rows, mut xattrs) = (BTreeSet::new(), BTreeMap::new());
    for (table, key, row) in rows(volume) {
        match table {
            Table::Inode => drop(inodes.insert(id(&key), Inode::decode(row).expect("an inode"))),
            Table::Entry => drop(entries.insert(key, Entry::decode(row).expect("an entry"))),
            Table::Link => drop(link_rows.insert(key)),
            Table::Xattr => drop(xattrs.insert(key, Xattr::decode(row).expect("an attribute"))),
            Table::Name => names.push((
                id(&key),
                table::name_of_key(&key).expect("a name"),
                Candidates::decode(row).expect("names"),
            )),
            _ => {}
        }
    }
    let who = format!("site {}", site.id);
    let mut stands = BTreeSet::new();
    let mut links: BTreeMap<FileId, u32> = BTreeMap::new();
    let mut subdirs: BTreeMap<FileId, u32> = BTreeMap::new();
    for (parent, name, candidates) in &names {
        assert!(
            inodes.get(parent).is_some_and(Inode::is_dir),
            "{who}: {name:?} stands in {parent}, which is no directory"
        );
        for candidate in candidates.iter() {
            let key = table::entry_key(candidate.entry);
            let entry = entries.get(&key).unwrap_or_else(|| panic!("{who}: no entry behind {parent}/{name:?}"));
            assert!(entry.is_alive(), "{who}: a removed entry stands at {parent}/{name:?}");
            assert_eq!(
                (entry.parent, &entry.name, entry.file, entry.stamp),
                (*parent, name, candidate.file, candidate.stamp)
            );
            assert!(inodes.contains_key(&candidate.file), "{who}: no inode behind {parent}/{name:?}");
            stands.insert(key);
            *links.entry(candidate.file).or_default() += 1;
            if inodes[&candidate.file].is_dir() {
                *subdirs.entry(*parent).or_default() += 1;
            }
        }
    }
    let files = entries.iter().filter(|(_, entry)| entry.is_alive() && !inodes[&entry.file].is_dir());
    let expected: BTreeSet<Bytes> =
        files.map(|(key, entry)| [&table::file_key(entry.file)[..], &key[..]].concat().into()).collect();
    assert_eq!(link_rows, expected, "{who}: links by file");
    for (key, entry) in &entries {
        assert_eq!(entry.is_alive(), stands.contains(key), "{who}: entry {key:?} {entry:?}");
    }
    for (file, inode) in &inodes {
        assert_eq!(inode.nlink, links.get(file).copied().unwrap_or(0), "{who}: links of {file}");
        assert_eq!(inode.subdirs, subdirs.get(file).copied().unwrap_or(0), "{who}: subdirectories of {file}");
        if !complete {
            continue;
        }
        assert!(
            inode.is_linked(*file),
            "{who}: {file} has no name and is not reclaimed: {inode:?}\n{:?}",
            entries.iter().filter(|(_, entry)| entry.file == *file).collect::<Vec<_>>()
        );
        let mut at = *file;
        for depth in 0.. {
            let Some(entry) = (if inodes[&at].is_dir() { inodes[&at].entry } else { None }) else { break };
            assert!(depth < 1000, "{who}: {file} is in a cycle");
            let entry = &entries[&table::entry_key(entry)];
            at = entry.parent;
            assert!(
                inodes.get(&at).is_some_and(|above| above.is_linked(at)),
                "{who}: {file} stands below {at}, which has no name"
            );
        }
    }
    Rows { inodes: &inodes, entries: &entries, names: &names, xattrs: &xattrs }.check_policies(volume);
    // Listings lead to what they say.
    let mut todo = vec![FileId::ROOT];
    let mut seen = BTreeSet::new();
    while let Some(dir) = todo.pop() {
        if !seen.insert(dir) {
            panic!("{who}: directory {dir} is reachable twice");
        }
        for entry in volume.list(dir).expect("a listing") {
            let attr = volume.lookup(dir, entry.name.as_bytes()).expect("the listed name");
            assert_eq!(attr.file, entry.file);
            if attr.kind == Kind::Directory {
                assert_eq!(volume.parent(attr.file).expect("the directory above"), dir);
                todo.push(attr.file);
            }
        }
    }
}

/// Closes the site and looks into its store: nothing waits, and only live regular files have objects. The site is started again.
pub fn check_drained(site: &mut Site) {
    let volume = site.volume().clone();
    let regular: BTreeSet<FileId> = rows(&volume)
        .into_iter()
        .filter(|(table, _, row)| {
            *table == Table::Inode && Inode::decode(row.clone()).expect("an inode").kind == Kind::Regular
        })
        .map(|(_, key, _)| id(&key))
        .collect();
    volume.close().expect("closed");
    drop(volume);
    site.crash();
    {
        let db = Db::open(&site.path().join("meta.redb")).expect("the database");
        let snapshot = db.snapshot().expect("a snapshot");
        for table in [Table::Garbage, Table::Extent, Table::Saved, Table::Repair] {
            let rows = snapshot.scan(table, b"", None, usize::MAX).expect("rows");
            assert!(rows.is_empty(), "site {}: {table:?} keeps {rows:?}", site.id);
        }
        let objects = Objects::open(site.path()).expect("the objects");
        for found in objects.list().expect("a listing") {
            match found.expect("an object") {
                Found::Object(file) => assert!(regular.contains(&file), "site {}: object {file} has no file", site.id),
                Found::Unknown(path) => panic!("site {}: {path:?} among the objects", site.id),
            }
        }
    }
    site.start();
}
