//! How a new site comes into a volume.
//!
//! ```text
//! member                                  new site
//! ------                                  --------
//! invite: a token, its hash kept     ──▶  the operator carries it
//!                                         checks that the store's directory can be one
//! redeem: uses the token up, gives   ◀──  secret, signing request, name, address
//!   the next site id, stores the
//!   member; from here on the member
//!   holds the watermarks             ──▶  certificate, volume key, members
//! snapshot: a copy of the state      ──▶  fills an empty store
//!                                         saves its identity: the join is complete
//! ```
//!
//! The order on both sides makes a join safe to break off anywhere: the member is stored before the copy is made, so nothing
//! after the copy can be dropped before the new site has it; the identity comes last, so a store with one is whole. What is left at the member is a
//! site that has never connected; its name and id are given to the next attempt under that name.

pub mod admit;
pub mod enter;
