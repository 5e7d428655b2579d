use proptest::prelude::*;

use super::*;

fn passthrough(opens: u32) -> OpenMode {
    NonZeroU32::new(opens).map_or(OpenMode::Idle, OpenMode::Passthrough)
}

fn cached(opens: u32) -> OpenMode {
    NonZeroU32::new(opens).map_or(OpenMode::Idle, OpenMode::Cached)
}

#[test]
fn every_transition() {
    use Access::*;
    let direct = |unseen_writes| IoMode::DirectPassthrough { unseen_writes };
    for (before, access, able, mode, after) in [
        (OpenMode::Idle, Read, true, IoMode::Passthrough, passthrough(1)),
        (OpenMode::Idle, Write, true, direct(false), passthrough(1)),
        (OpenMode::Idle, ReadWrite, true, IoMode::Cached, cached(1)),
        (OpenMode::Idle, Read, false, IoMode::Cached, cached(1)),
        (OpenMode::Idle, Write, false, IoMode::Cached, cached(1)),
        (OpenMode::Idle, ReadWrite, false, IoMode::Cached, cached(1)),
        (passthrough(1), Read, true, IoMode::Passthrough, passthrough(2)),
        (passthrough(1), Write, true, direct(false), passthrough(2)),
        (passthrough(1), ReadWrite, true, direct(true), passthrough(2)),
        (OpenMode::Mapped, Read, true, IoMode::Passthrough, passthrough(1)),
        (OpenMode::Mapped, Write, true, direct(false), passthrough(1)),
        (OpenMode::Mapped, ReadWrite, true, direct(true), passthrough(1)),
        (OpenMode::Mapped, ReadWrite, false, IoMode::Cached, cached(1)),
        (passthrough(1), Read, false, IoMode::Passthrough, passthrough(2)),
        (cached(1), Read, true, IoMode::Cached, cached(2)),
        (cached(1), Write, true, IoMode::Cached, cached(2)),
        (cached(1), ReadWrite, true, IoMode::Cached, cached(2)),
    ] {
        let mut state = before;
        assert_eq!(state.open(access, able), mode, "{before:?} {access:?} {able}");
        assert_eq!(state, after, "{before:?} {access:?} {able}");
    }
    for (before, mapped, after) in [
        (passthrough(2), false, passthrough(1)),
        (passthrough(2), true, passthrough(1)),
        (passthrough(1), false, OpenMode::Idle),
        (passthrough(1), true, OpenMode::Mapped),
        (cached(2), false, cached(1)),
        (cached(1), false, OpenMode::Idle),
        (cached(1), true, OpenMode::Mapped),
    ] {
        let mut state = before;
        state.release(mapped);
        assert_eq!(state, after);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open(Access, bool),
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)];
    prop_oneof![
        (access, any::<bool>()).prop_map(|(access, able)| Step::Open(access, able)),
        any::<usize>().prop_map(Step::Release),
    ]
}

proptest! {
    #[test]
    fn never_cached_and_passed_through_at_once(steps in prop::collection::vec(step(), 1..60)) {
        let mut state = OpenMode::default();
        let mut open: Vec<IoMode> = Vec::new();
        for step in steps {
            match step {
                Step::Open(access, able) => {
                    let mode = state.open(access, able);
                    if matches!(mode, IoMode::Passthrough) {
                        prop_assert_eq!(access, Access::Read, "writes must arrive here");
                    }
                    open.push(mode);
                }
                Step::Release(which) if !open.is_empty() => {
                    let which = which % open.len();
                    open.swap_remove(which);
                    state.release(false);
                }
                Step::Release(_) => {}
            }
            let cached_opens = open.iter().filter(|mode| matches!(mode, IoMode::Cached)).count();
            prop_assert!(cached_opens == 0 || cached_opens == open.len(), "{:?}", open);
            let expected = match u32::try_from(open.len()) {
                Ok(opens) if cached_opens > 0 => cached(opens),
                Ok(opens) => passthrough(opens),
                Err(_) => unreachable!("60 steps at most"),
            };
            prop_assert_eq!(state, expected);
        }
    }
}
