//! The messages, clients and servers generated from `protobuf/*.proto`.
//!
//! These are what the wire carries: whoever receives one checks every field before using it.

#![allow(clippy::all, missing_docs)]

tonic::include_proto!("syncline.v1");

/// What both sides of a connection must speak. A change that an older site would misread raises it.
pub const PROTOCOL_VERSION: u32 = 3;
