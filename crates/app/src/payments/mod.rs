//! Payments: creating them over three rails, capturing, voiding, refunding, reading. Rules and wire live here; every
//! movement of money is a command to the engine.
//!
//! ```text
//! processing --approved--> succeeded --refund--> partially_refunded --refund--> refunded
//!     |  |  \--held------> requires_review --approved/declined--> succeeded / failed
//!     |  \-----declined--> failed
//!     \--(authorize)-----> authorized --capture--> succeeded      authorized --void--> cancelled
//! ```
//! A gateway that does not answer leaves `processing` with outcome `unknown` until the resolver has asked.

pub mod batch;
pub mod capture;
pub mod charge;
pub mod create;
pub mod get;
pub mod handler;
pub mod list;
pub mod model;
pub mod refund;
pub mod resolver;
pub mod store;
pub mod void;
pub mod wire;
