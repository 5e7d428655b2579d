use proptest::prelude::*;
use proto::record::Perms;

use super::*;

fn attr(kind: Kind) -> Attr {
    let time = |secs| Time { secs, nanos: 5 };
    Attr {
        file: FileId(0x0002_0000_0000_0007),
        kind,
        perms: Perms { mode: 0o6755, uid: 1000, gid: 100 },
        nlink: 3,
        size: 1 << 40,
        blocks: 8,
        atime: time(-1),
        mtime: time(2),
        ctime: time(3),
        btime: time(4),
    }
}

#[test]
fn attributes_keep_all_that_stat_shows() {
    let converted = file_attr(&attr(Kind::CharDevice(rustix::fs::makedev(5, 300))));
    assert_eq!(converted.ino, INodeNo(0x0002_0000_0000_0007));
    assert_eq!((converted.size, converted.blocks, converted.nlink), (1 << 40, 8, 3));
    assert_eq!((converted.perm, converted.uid, converted.gid), (0o6755, 1000, 100));
    assert_eq!(converted.kind, FileType::CharDevice);
    assert_eq!(converted.rdev, (5 << 8) | 0x2c | (0x100 << 12));
    assert_eq!(converted.atime, UNIX_EPOCH - Duration::from_secs(1) + Duration::from_nanos(5));
    assert_eq!(converted.mtime, UNIX_EPOCH + Duration::new(2, 5));
    assert_eq!(converted.ctime, UNIX_EPOCH + Duration::new(3, 5));
    assert_eq!(converted.crtime, UNIX_EPOCH + Duration::new(4, 5));
}

#[test]
fn only_devices_have_a_number() {
    for kind in [Kind::Regular, Kind::Directory, Kind::Fifo, Kind::Socket, Kind::Symlink(Default::default())] {
        assert_eq!(file_attr(&attr(kind)).rdev, 0);
    }
}

#[test]
fn mknod_knows_its_kinds() {
    assert_eq!(node_kind(0o100_644, 0), Some(Kind::Regular));
    assert_eq!(node_kind(0o010_600, 0), Some(Kind::Fifo));
    assert_eq!(node_kind(0o140_600, 0), Some(Kind::Socket));
    assert_eq!(node_kind(0o020_600, 0x0103), Some(Kind::CharDevice(rustix::fs::makedev(1, 3))));
    assert_eq!(node_kind(0o060_600, 0x0800), Some(Kind::BlockDevice(rustix::fs::makedev(8, 0))));
    assert_eq!(node_kind(0o040_755, 0), None, "directories are made by mkdir");
    assert_eq!(node_kind(0o120_777, 0), None, "links are made by symlink");
    assert_eq!(node_kind(0o644, 0), None);
}

#[test]
fn an_impossible_time_does_not_panic() {
    for secs in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX] {
        for nanos in [0, 1, NANOS_MAX, u32::MAX] {
            system_time(Time { secs, nanos });
        }
    }
}

#[test]
fn a_missing_name_is_inode_zero() {
    assert_eq!(no_entry().ino, INodeNo(0));
}

/// What fuser 0.18 makes of the kernel's seconds and nanoseconds.
fn as_fuser_receives(time: Time) -> SystemTime {
    match time.secs {
        0.. => UNIX_EPOCH + Duration::new(time.secs as u64, time.nanos),
        _ => UNIX_EPOCH - Duration::new(time.secs.unsigned_abs(), time.nanos),
    }
}

proptest! {
    #[test]
    fn a_time_from_the_kernel_arrives(secs in -(1i64 << 40)..(1i64 << 40), nanos in 0..=NANOS_MAX) {
        let time = Time { secs, nanos };
        prop_assert_eq!(time_from_request(as_fuser_receives(time)), time);
    }

    #[test]
    fn a_time_to_the_kernel_is_exact(secs in -(1i64 << 40)..(1i64 << 40), nanos in 0..=NANOS_MAX) {
        let since = i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        let sent = match system_time(Time { secs, nanos }).duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(error) => -(error.duration().as_nanos() as i128),
        };
        prop_assert_eq!(sent, since);
    }

    #[test]
    fn device_numbers_survive(major in 0u32..1 << 12, minor in 0u32..1 << 20) {
        let number = rustix::fs::makedev(major, minor);
        prop_assert_eq!(device(kernel_device(number)), number);
    }

    #[test]
    fn kernel_device_numbers_survive(number: u32) {
        prop_assert_eq!(kernel_device(device(number)), number);
    }

    #[test]
    fn open_handles_survive(id in 0u64..1 << 62, append: bool, sync: bool) {
        let open = OpenHandle { handle: HandleId(id), append, sync };
        prop_assert_eq!(OpenHandle::decode(open.encode()), open);
    }
}
