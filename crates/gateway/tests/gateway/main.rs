//! The gateways against the simulator over real HTTP. One binary, so that it links once.
//! Knows no private part of the crate.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in shared functions too")]

mod authorize_net;
mod authorize_net_faults;
mod secrecy;
mod simulator;
mod support;
mod velocity_pay;
