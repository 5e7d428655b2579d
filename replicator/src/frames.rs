//! Between what the wire carries and what this crate works with. Every field from a peer is checked here.

use bytes::Bytes;
use fs::peers::Member;
use fs::ship::LaneHead;
use proto::grpc;
use proto::history::{Histories, LaneHistory};
use proto::ids::{Incarnation, Lane, LanePoint, Seq, SiteId};

use crate::frontiers::Head;
use crate::membership::MAX_MEMBERS;

/// A peer's frame that no site sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a frame is not valid: {what}")]
pub struct FrameError {
    /// What is wrong.
    pub what: &'static str,
}

/// A place as the wire has it.
pub fn put_head(head: Head) -> grpc::Head {
    let Head { site, lane, point } = head;
    grpc::Head { site: site.0.into(), lane: u32::from(lane as u8), incarnation: point.incarnation.0, seq: point.seq.0 }
}

/// Places as the wire has them.
pub fn put_heads(heads: &[Head]) -> Vec<grpc::Head> {
    heads.iter().copied().map(put_head).collect()
}

/// Reads a place.
pub fn head(head: &grpc::Head) -> Result<Head, FrameError> {
    let site = u16::try_from(head.site).ok().filter(|site| *site != 0).ok_or(FrameError { what: "a site id" })?;
    let lane = u8::try_from(head.lane).ok().and_then(Lane::from_u8).ok_or(FrameError { what: "a lane" })?;
    let point = LanePoint { incarnation: Incarnation(head.incarnation), seq: Seq(head.seq) };
    Ok(Head { site: SiteId(site), lane, point })
}

/// Reads a place that must be given.
pub fn required_head(given: Option<&grpc::Head>) -> Result<Head, FrameError> {
    head(given.ok_or(FrameError { what: "a missing position" })?)
}

/// Reads places: not more than there can be lanes.
pub fn heads(heads: &[grpc::Head]) -> Result<Vec<Head>, FrameError> {
    if heads.len() > (MAX_MEMBERS + 1) * Lane::ALL.len() {
        return Err(FrameError { what: "too many positions" });
    }
    heads.iter().map(head).collect()
}

/// Reads places in the lanes of `site` only.
pub fn heads_of(site: SiteId, given: &[grpc::Head]) -> Result<Vec<Head>, FrameError> {
    let heads = heads(given)?;
    if heads.iter().any(|head| head.site != site) {
        Err(FrameError { what: "another site's position" })
    } else {
        Ok(heads)
    }
}

/// Where a site's own lanes stand: the last records appended. Empty lanes are left out.
pub fn own_heads(site: SiteId, histories: &Histories, heads: &[LaneHead; Lane::ALL.len()]) -> Vec<Head> {
    let of = |(lane, head): (Lane, &LaneHead)| {
        let point = histories[lane as usize].point(head.appended);
        (point != LanePoint::START).then_some(Head { site, lane, point })
    };
    Lane::ALL.into_iter().zip(heads).filter_map(of).collect()
}

/// The histories of a site's lanes as the wire has them.
pub fn put_histories(histories: &Histories) -> Vec<Bytes> {
    histories.iter().map(|history| history.encode().into()).collect()
}

/// Reads the histories of a site's lanes.
pub fn histories(given: &[Bytes]) -> Result<Histories, FrameError> {
    const INVALID: FrameError = FrameError { what: "the histories of lanes" };
    let mut histories = Histories::default();
    if given.len() != histories.len() {
        return Err(INVALID);
    }
    for (history, bytes) in histories.iter_mut().zip(given) {
        *history = LaneHistory::decode(bytes.clone()).map_err(|_| INVALID)?;
    }
    Ok(histories)
}

/// Members as the wire has them.
pub fn put_members(members: &[Member]) -> grpc::Members {
    let put = |member: &Member| grpc::MemberInfo {
        site: member.site.0.into(),
        name: member.name.clone(),
        address: member.address.clone(),
    };
    grpc::Members { members: members.iter().map(put).collect() }
}

/// Reads members. Names and addresses are checked by [`crate::membership`].
pub fn members(given: Option<&grpc::Members>) -> Result<Vec<Member>, FrameError> {
    let given = given.map(|members| members.members.as_slice()).unwrap_or_default();
    if given.len() > MAX_MEMBERS {
        return Err(FrameError { what: "too many members" });
    }
    let read = |info: &grpc::MemberInfo| {
        let site = u16::try_from(info.site).map_err(|_| FrameError { what: "a site id" })?;
        Ok(Member { site: SiteId(site), name: info.name.clone(), address: info.address.clone() })
    };
    given.iter().map(read).collect()
}
