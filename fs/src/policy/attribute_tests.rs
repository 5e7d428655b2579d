use proptest::prelude::*;

use super::*;

fn any_setting() -> impl Strategy<Value = Setting> {
    let duration = (1u64..=3_600_000).prop_map(Duration::from_millis);
    prop_oneof![
        prop_oneof![Just(Mode::Async), Just(Mode::Sync)].prop_map(Setting::Mode),
        prop_oneof![Just(Acks::All), Just(Acks::Majority), (1u16..).prop_map(Acks::Peers)].prop_map(Setting::Acks),
        prop_oneof![Just(OnLoss::Degrade), Just(OnLoss::Fail)].prop_map(Setting::OnLoss),
        prop_oneof![duration, (1u64..=60).prop_map(|minutes| Duration::from_secs(60 * minutes))]
            .prop_map(Setting::Timeout),
        prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Bulk)].prop_map(Setting::Priority),
        prop_oneof![Just(Compress::Auto), Just(Compress::On), Just(Compress::Off)].prop_map(Setting::Compress),
        "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
            .prop_map(|name| if name == "any" { WriterSite::Any } else { WriterSite::Site(name) })
            .prop_map(Setting::Writer),
    ]
}

proptest! {
    #[test]
    fn what_is_printed_reads_as_the_same(setting in any_setting()) {
        let text = setting.to_string();
        prop_assert_eq!(Setting::parse(setting.key(), text.as_bytes()), Ok(setting.clone()));
        let mut policy = Policy::default();
        setting.put(&mut policy);
        prop_assert_eq!(Setting::of(&policy, setting.key()), setting);
    }

    #[test]
    fn no_bytes_panic_and_what_is_taken_is_printed_as_a_value_that_means_the_same(
        bytes in proptest::collection::vec(any::<u8>(), 0..12), short in "[0-9a-z]{0,8}"
    ) {
        for key in Key::ALL {
            for value in [&bytes[..], short.as_bytes()] {
                if let Ok(setting) = Setting::parse(key, value) {
                    prop_assert_eq!(setting.key(), key);
                    prop_assert_eq!(Setting::parse(key, setting.to_string().as_bytes()), Ok(setting));
                }
            }
        }
    }
}

#[test]
fn names_are_those_of_the_attributes() {
    for (index, key) in Key::ALL.into_iter().enumerate() {
        assert_eq!(key.index(), index);
        assert_eq!(Key::from_attribute(key.attribute().as_bytes()), Some(key));
        assert_eq!(Setting::of(&Policy::default(), key).key(), key);
    }
    for none in [&b"user.syncline.rpo"[..], b"user.syncline.", b"user.mode", b"mode", b"user.syncline.mode2"] {
        assert_eq!(Key::from_attribute(none), None);
    }
}

#[test]
fn values_at_their_limits() {
    let taken = |key, value: &str| Setting::parse(key, value.as_bytes()).is_ok();
    for good in ["1", "65535", "all", "majority"] {
        assert!(taken(Key::Acks, good), "{good}");
    }
    for bad in ["0", "65536", "-1", "+1", "01", "", "ALL", "all ", "1.5"] {
        assert!(!taken(Key::Acks, bad), "{bad}");
    }
    for good in ["1ms", "500ms", "10s", "2m", "60m", "3600s", "3600000ms"] {
        assert!(taken(Key::Timeout, good), "{good}");
    }
    for bad in
        ["0s", "0ms", "61m", "3601s", "10", "s", "10 s", "1h", "-1s", "99999999999999999999m", "18446744073709551615m"]
    {
        assert!(!taken(Key::Timeout, bad), "{bad}");
    }
    for bad in ["", "a b", "a\n", "sync\0"] {
        assert!(!taken(Key::Writer, bad), "{bad:?}");
        assert!(!taken(Key::Mode, bad), "{bad:?}");
    }
}

#[test]
fn a_wrong_value_is_named_with_the_right_ones() {
    let error = Setting::parse(Key::OnLoss, b"explode").expect_err("no such value");
    assert_eq!(error.to_string(), "user.syncline.on-loss cannot be \"explode\"; it can be degrade or fail");
}
