//! What a power loss leaves of calls that nobody waited for.

mod common;

use std::time::Duration;

use common::dump::{check_drained, check_rows, content};
use common::work::{READ_WRITE, ROOT};
use common::{Site, power};
use fs::types::SetAttr;
use proto::ids::FileId;

#[test]
fn a_file_whose_creation_was_lost_leaves_no_object_behind() {
    let mut site = Site::with_journal(1, 192 << 10, Duration::from_secs(3600));
    for round in 0..2 {
        let volume = site.volume().clone();
        let before = volume.appended();
        let made = volume.create_open(ROOT, FileId::ROOT, b"lost", 0o644, READ_WRITE);
        let (_, handle) = made.expect("a file");
        volume.write(handle, 0, b"a secret of a file that never was", false).expect("written");
        drop(volume);
        site.crash();
        power::lose(site.path(), before);
        site.start();
        assert!(site.volume().lookup(FileId::ROOT, b"lost").is_err(), "round {round}: the creation was not lost");
        check_rows(&site, true);
        check_drained(&mut site);
    }
    // Its id is given again, and nothing shows through.
    let volume = site.volume().clone();
    let (attr, handle) = volume.create_open(ROOT, FileId::ROOT, b"new", 0o644, READ_WRITE).expect("a file");
    volume.setattr(ROOT, attr.file, SetAttr { size: Some(100), ..SetAttr::default() }).expect("longer");
    volume.fsync(handle).expect("synced");
    drop(volume);
    site.restart(false);
    assert_eq!(content(site.volume(), attr.file).0, [0; 100]);
}
