use proptest::prelude::*;
use proto::ids::Incarnation;

use super::*;

const LANE: Lane = Lane::Normal;

fn point(seq: u64) -> LanePoint {
    LanePoint { incarnation: Incarnation(1), seq: Seq(seq) }
}

fn head(site: u16, seq: u64) -> Head {
    Head { site: SiteId(site), lane: LANE, point: point(seq) }
}

fn with(peers: &[(u16, Option<u64>)]) -> Watermarks {
    let mut watermarks = Watermarks::default();
    for (site, seq) in peers {
        watermarks.add(SiteId(*site), [seq.map(point); 4]);
    }
    watermarks
}

#[test]
fn alone_everything_durable_is_below_the_watermark_and_stable() {
    let mut watermarks = with(&[]);
    assert_eq!(watermarks.watermark(LANE, Seq(7)), (Seq(7), Bound::Alone));
    assert_eq!(watermarks.stable(LANE, point(7)).map(|stable| stable.point), Some(point(7)));
    assert_eq!(watermarks.stable(LANE, point(7)), None, "it has not moved");
}

#[test]
fn a_member_of_whom_nothing_is_known_holds_the_watermark_where_it_is() {
    let mut watermarks = with(&[(2, Some(5))]);
    assert_eq!(watermarks.watermark(LANE, Seq(9)), (Seq(5), Bound::Acknowledged(SiteId(2))));
    watermarks.add(SiteId(3), [None; 4]);
    watermarks.acknowledge(SiteId(2), LANE, point(9), &[], &Frontiers::default());
    assert_eq!(watermarks.watermark(LANE, Seq(9)), (Seq(5), Bound::Unknown(SiteId(3))));
    assert_eq!(watermarks.stable(LANE, point(9)), None);
    watermarks.acknowledge(SiteId(3), LANE, point(8), &[], &Frontiers::default());
    assert_eq!(watermarks.watermark(LANE, Seq(9)), (Seq(8), Bound::Acknowledged(SiteId(3))));
}

#[test]
fn an_acknowledgement_is_stable_once_what_the_peer_made_before_is_applied_here() {
    let mut watermarks = with(&[(2, None)]);
    let mut applied = Frontiers::default();
    watermarks.acknowledge(SiteId(2), LANE, point(4), &[head(2, 10)], &applied);
    assert_eq!(watermarks.stable(LANE, point(9)), None);
    // The peer goes on making records, and acknowledging: the first acknowledgement must not be postponed by the later.
    watermarks.acknowledge(SiteId(2), LANE, point(6), &[head(2, 20)], &applied);
    applied.advance(head(2, 12));
    watermarks.applied(&applied);
    let stable = watermarks.stable(LANE, point(9)).expect("the first acknowledgement is confirmed");
    assert_eq!((stable.point, stable.heads), (point(4), vec![head(2, 10)]));
    applied.advance(head(2, 20));
    watermarks.applied(&applied);
    assert_eq!(watermarks.stable(LANE, point(9)).map(|stable| stable.point), Some(point(6)));
}

#[test]
fn a_peer_can_not_make_a_point_stable_by_naming_another_sites_heads() {
    let mut watermarks = with(&[(2, None)]);
    watermarks.acknowledge(SiteId(2), LANE, point(4), &[head(3, 0)], &Frontiers::default());
    assert_eq!(watermarks.stable(LANE, point(9)), None);
}

#[derive(Clone, Debug)]
enum Step {
    Make(u64),
    Acknowledge { peer: u16, share: f64 },
    Apply { peer: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..9).prop_map(Step::Make),
        (2u16..5, 0.0f64..=1.0).prop_map(|(peer, share)| Step::Acknowledge { peer, share }),
        (2u16..5).prop_map(|peer| Step::Apply { peer }),
    ]
}

proptest! {
    #[test]
    fn the_watermark_is_the_lowest_acknowledgement_and_nothing_falls(steps in proptest::collection::vec(step(), 1..200)) {
        let mut watermarks = with(&[(2, Some(0)), (3, Some(0)), (4, Some(0))]);
        let mut applied = Frontiers::default();
        let mut durable = 0;
        let mut acknowledged = BTreeMap::from([(2, 0), (3, 0), (4, 0)]);
        // How far each peer's own lane has come, and what each acknowledgement requires.
        let mut made = BTreeMap::from([(2u16, 0u64), (3, 0), (4, 0)]);
        let mut required: Vec<(u16, u64, u64)> = Vec::new();
        let (mut last_watermark, mut last_stable) = (0, 0);
        for step in steps {
            match step {
                Step::Make(count) => durable += count,
                Step::Acknowledge { peer, share } => {
                    let before = acknowledged[&peer];
                    let seq = before + ((durable - before) as f64 * share) as u64;
                    acknowledged.insert(peer, seq);
                    *made.entry(peer).or_default() += 3;
                    required.push((peer, seq, made[&peer]));
                    watermarks.acknowledge(SiteId(peer), LANE, point(seq), &[head(peer, made[&peer])], &applied);
                }
                Step::Apply { peer } => {
                    applied.advance(head(peer, made[&peer]));
                    watermarks.applied(&applied);
                }
            }
            let (watermark, _) = watermarks.watermark(LANE, Seq(durable));
            prop_assert_eq!(watermark.0, *acknowledged.values().min().expect("three peers"));
            prop_assert!(watermark.0 >= last_watermark);
            last_watermark = watermark.0;
            if let Some(stable) = watermarks.stable(LANE, point(durable)) {
                let seq = stable.point.seq.0;
                prop_assert!(seq > last_stable && seq <= watermark.0);
                last_stable = seq;
                for peer in 2..5 {
                    // Some acknowledgement of each peer reaches the point, and what it made before is applied.
                    let reached = required.iter().any(|(by, up_to, head)| {
                        *by == peer && *up_to >= seq && applied.get(SiteId(peer), LANE).seq.0 >= *head
                    });
                    prop_assert!(reached);
                }
            }
        }
    }
}
