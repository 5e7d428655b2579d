//! Who belongs to the volume, as far as this site knows: what the store holds, and what other sites tell.
//!
//! Members are only added. A site id means one site for ever: two names for one id, or two ids with one name, are a conflict
//! that is refused, not resolved. A member's address is its own word; from others it is taken only while the member is new.

use std::collections::BTreeMap;

use fs::peers::Member;
use proto::ids::SiteId;

use crate::identity::site_identity::check_name;

/// The most sites that a volume may have.
pub const MAX_MEMBERS: usize = 64;
const MAX_ADDRESS_BYTES: usize = 255;

/// Why a list of members was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembershipError {
    /// One id, two names.
    #[error(
        "site {site} is {known:?} here, but {told:?} there: two sites were given one id; stop one of them and join it again under another name"
    )]
    Conflict {
        /// The id.
        site: SiteId,
        /// Its name here.
        known: String,
        /// Its name there.
        told: String,
    },
    /// One name, two ids.
    #[error(
        "the name {name:?} is site {known}'s here, but site {told}'s there; join one of them again under another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is here.
        known: SiteId,
        /// Whose it is there.
        told: SiteId,
    },
    /// A member that cannot be.
    #[error("member {site} is not valid: {what}")]
    Invalid {
        /// Its id.
        site: SiteId,
        /// What is wrong.
        what: &'static str,
    },
    /// More than [`MAX_MEMBERS`].
    #[error("a volume has at most {MAX_MEMBERS} sites")]
    TooMany,
}

/// The members, this site apart.
#[derive(Clone, Debug)]
pub struct Membership {
    own: Member,
    others: BTreeMap<SiteId, Member>,
    version: u64,
}

impl Membership {
    /// The members as the store holds them; the own site may be among them.
    pub fn new(own: Member, stored: Vec<Member>) -> Self {
        let others = stored.into_iter().filter(|member| member.site != own.site);
        Self { others: others.map(|member| (member.site, member)).collect(), own, version: 1 }
    }

    /// This site.
    pub fn own(&self) -> &Member {
        &self.own
    }

    /// Every other site, by id.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.others.values()
    }

    /// Every site, this one first.
    pub fn all(&self) -> Vec<Member> {
        std::iter::once(&self.own).chain(self.others.values()).cloned().collect()
    }

    /// Another site by id.
    pub fn get(&self, site: SiteId) -> Option<&Member> {
        self.others.get(&site)
    }

    /// Another site by name.
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.others.values().find(|member| member.name == name)
    }

    /// Rises whenever a member is added or changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The id for the next site that joins: above all ids known.
    pub fn next_site(&self) -> Option<SiteId> {
        let highest = self.others.keys().next_back().copied().unwrap_or(self.own.site).max(self.own.site);
        (self.others.len() + 1 < MAX_MEMBERS).then(|| highest.0.checked_add(1).map(SiteId)).flatten()
    }

    /// What `told` adds to or changes in what is known; all or nothing. `from` is the site that tells.
    ///
    /// Nothing is changed here: the caller stores the members and then [`adopt`](Self::adopt)s them.
    pub fn news(&self, told: &[Member], from: Option<SiteId>) -> Result<Vec<Member>, MembershipError> {
        let mut news: Vec<Member> = Vec::new();
        for member in told {
            check(member)?;
            let known = if member.site == self.own.site { Some(&self.own) } else { self.others.get(&member.site) };
            if let Some(known) = known.filter(|known| known.name != member.name) {
                let (known, told) = (known.name.clone(), member.name.clone());
                return Err(MembershipError::Conflict { site: member.site, known, told });
            }
            let mut everyone = std::iter::once(&self.own).chain(self.others.values()).chain(&news);
            if let Some(other) = everyone.find(|other| other.name == member.name && other.site != member.site) {
                let (name, known, told) = (member.name.clone(), other.site, member.site);
                return Err(MembershipError::NameTaken { name, known, told });
            }
            let moved = |known: &Member| known.address != member.address && from == Some(member.site);
            if member.site != self.own.site && known.is_none_or(moved) && !news.contains(member) {
                news.push(member.clone());
            }
        }
        let added = news.iter().filter(|member| !self.others.contains_key(&member.site)).count();
        if self.others.len() + 1 + added > MAX_MEMBERS { Err(MembershipError::TooMany) } else { Ok(news) }
    }

    /// Takes members in that are stored.
    pub fn adopt(&mut self, news: &[Member]) {
        for member in news {
            self.others.insert(member.site, member.clone());
        }
        self.version += u64::from(!news.is_empty());
    }
}

/// Whether there can be such a member.
pub fn check(member: &Member) -> Result<(), MembershipError> {
    let site = member.site;
    let what = if site == SiteId(0) {
        "there is no site 0"
    } else if check_name("a site's name", &member.name).is_err() {
        "a name has 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit"
    } else if member.address.len() > MAX_ADDRESS_BYTES || !is_address(&member.address) {
        "an address is host:port"
    } else {
        return Ok(());
    };
    Err(MembershipError::Invalid { site, what })
}

fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'[' | b']' | b'%');
    !host.is_empty() && host.bytes().all(host_byte) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(site: u16, name: &str, address: &str) -> Member {
        Member { site: SiteId(site), name: name.into(), address: address.into() }
    }

    fn two() -> Membership {
        let own = member(1, "alpha", "a:1");
        Membership::new(own.clone(), vec![own, member(2, "beta", "b:1")])
    }

    #[test]
    fn new_members_are_news_once() {
        let mut members = two();
        let told = [member(1, "alpha", "a:1"), member(2, "beta", "b:1"), member(3, "gamma", "c:1")];
        let news = members.news(&told, Some(SiteId(2))).expect("no conflict");
        assert_eq!(news, [member(3, "gamma", "c:1")]);
        let before = members.version();
        members.adopt(&news);
        assert!(members.version() > before);
        assert_eq!(members.news(&told, Some(SiteId(2))), Ok(vec![]));
        assert_eq!(members.next_site(), Some(SiteId(4)));
    }

    #[test]
    fn one_id_with_two_names_is_refused() {
        let refused = two().news(&[member(2, "gamma", "c:1")], None);
        assert!(matches!(refused, Err(MembershipError::Conflict { site: SiteId(2), .. })), "{refused:?}");
        let refused = two().news(&[member(1, "gamma", "c:1")], None);
        assert!(matches!(refused, Err(MembershipError::Conflict { site: SiteId(1), .. })), "{refused:?}");
    }

    #[test]
    fn one_name_with_two_ids_is_refused() {
        for told in [vec![member(3, "beta", "c:1")], vec![member(3, "x", "c:1"), member(4, "x", "c:1")]] {
            let refused = two().news(&told, None);
            assert!(matches!(refused, Err(MembershipError::NameTaken { .. })), "{refused:?}");
        }
    }

    #[test]
    fn only_a_site_itself_changes_its_address() {
        let told = [member(2, "beta", "elsewhere:9")];
        assert_eq!(two().news(&told, Some(SiteId(3))), Ok(vec![]));
        assert_eq!(two().news(&told, Some(SiteId(2))), Ok(told.to_vec()));
    }

    #[test]
    fn members_that_cannot_be_are_refused() {
        for bad in [
            member(0, "x", "c:1"),
            member(3, "", "c:1"),
            member(3, "a/b", "c:1"),
            member(3, "x", "c"),
            member(3, "x", "c:0"),
        ] {
            assert!(
                matches!(two().news(std::slice::from_ref(&bad), None), Err(MembershipError::Invalid { .. })),
                "{bad:?}"
            );
        }
    }
}
