//! Stores of other formats.

mod common;

use common::Site;
use common::work::ROOT;
use fs::meta;
use fs::store::db::Db;
use fs::store::overlay::Overlay;
use fs::volume::{Volume, VolumeOptions};
use proto::ids::FileId;
use proto::record::Kind;

#[test]
fn an_older_store_is_raised_to_this_format_and_an_unknown_one_refused() {
    let mut site = Site::new(1);
    site.volume().create(ROOT, FileId::ROOT, b"dir", Kind::Directory, 0o755).expect("created");
    site.restart(true);
    let set = |site: &mut Site, format: u64| {
        site.crash();
        let row = meta::number(b"format", format);
        Db::open(&site.path().join("meta.redb"))
            .expect("the database")
            .commit(&Default::default(), &[row])
            .expect("set");
    };
    let format = |site: &mut Site| {
        site.crash();
        let db = Db::open(&site.path().join("meta.redb")).expect("the database");
        meta::format(&Overlay::new(db.snapshot().expect("a snapshot"))).expect("a row")
    };
    set(&mut site, meta::OLDEST_FORMAT);
    site.start();
    assert!(site.volume().lookup(FileId::ROOT, b"dir").is_ok());
    assert_eq!(format(&mut site), Some(meta::FORMAT));
    for unknown in [meta::OLDEST_FORMAT - 1, meta::FORMAT + 1] {
        set(&mut site, unknown);
        let refused = Volume::start(site.path(), VolumeOptions::default()).err().expect("refused").to_string();
        assert!(refused.contains(&format!("a store of format {unknown}")), "{refused}");
        // Nothing was changed.
        assert_eq!(format(&mut site), Some(unknown));
    }
}
