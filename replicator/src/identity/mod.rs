//! What a site proves itself with, and how a new site gets it.
//!
//! | module | concept |
//! |---|---|
//! | [`certificate`] | the volume's certificate authority, a site's key and certificate |
//! | [`site_identity`] | everything that a site has of these, founded, joined, saved and loaded |
//! | [`key_files`] | files that only their owner can read |
//! | [`token`] | the one line that an operator carries to a new site |
//! | [`invitations`] | which tokens are outstanding here |
//! | [`random`] | the operating system's random generator |
//!
//! A join, seen from here. The member: [`random::bytes`] gives a secret, [`invitations::Invitations::add`] keeps its hash,
//! [`token::JoinToken::encode`] prints it. The new site: [`token::JoinToken::decode`], [`certificate::SiteKey::generate`], then over
//! TLS to [`certificate::server_name`] of the inviter, trusting only the token's authority, it sends secret and
//! [`certificate::SiteKey::request`]. The member: [`invitations::Invitations::redeem`], [`certificate::Authority::sign`]. The new site:
//! [`site_identity::SiteIdentity::new`] checks that all parts belong together, and saves them.

pub mod certificate;
mod hex;
pub mod invitations;
pub mod key_files;
pub mod random;
pub mod site_identity;
pub mod token;
