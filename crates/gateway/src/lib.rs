//! Clients for payment gateways that treat an unknown outcome as a first-class answer.
//! Knows no ledger and no other crate; whoever holds the money decides what an [`Outcome`] means for it.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use paystrata_gateway::{
//!     Amount, Attempt, AuthorizeNet, AuthorizeNetConfig, Card, CardFields, Charge, Currency, Gateway, Method,
//!     NoObserver, Outcome, Reference, Secret,
//!     simulator::{Simulator, SimulatorConfig},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let simulator = Simulator::start(SimulatorConfig::default()).await?;
//! let config = AuthorizeNetConfig::new(
//!     simulator.authorize_net_endpoint(),
//!     Secret::from("simulator"),
//!     Secret::from("simulator-key"),
//! );
//! let gateway = AuthorizeNet::new(config, Arc::new(NoObserver))?;
//! let card = CardFields {
//!     number: "4111111111111111",
//!     expiration: "2099-12",
//!     code: Some("900"),
//!     billing_zip: None,
//! };
//! let outcome = gateway
//!     .purchase(Charge {
//!         reference: Reference::new("order-1-attempt-1")?,
//!         amount: Amount::new(1050, Currency::new("USD", 2)?)?,
//!         method: Method::Card(Card::parse(card, time::OffsetDateTime::now_utc().date())?),
//!         attempt: Attempt::First,
//!         deadline: Duration::from_secs(15),
//!     })
//!     .await;
//! assert!(matches!(outcome, Outcome::Approved { .. }));
//! assert_eq!(simulator.effects("order-1-attempt-1").purchase, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//! - [`Outcome::NotSent`] means that no byte of the request was handed to a connection. Whatever cannot be proven is
//!   [`Outcome::Unknown`], and a refused *resend* ([`Attempt::Resend`]) never becomes `Declined`.
//! - A write without an idempotency key is never repeated once a byte may have left ([`OperationClass`]).
//! - Calls in flight, waits, attempts, retries over time, bodies and evidence are bounded ([`ResilienceSettings`]).
//! - Cards and credentials are in no `Debug`, event or [`Evidence`]; request bodies are wiped after use. The HTTP
//!   library's own write buffers are not wiped.
//!
//! # Cost
//! One exchange per charge, capture or void; two per refund at Authorize.Net, which must know whether the charge has
//! settled, and per void that it refuses; three or more per lookup there, which has no search by reference. Two per lookup of
//! a void that VelocityPay does not find.
//!
//! # What it does not do
//! No failover or hedging between gateways, no storing of attempts: the caller keeps the reference before it calls, and
//! asks with [`Gateway::lookup`] afterwards. A 409 of VelocityPay, a 5xx and E00053 are unknown, not refused.
//!
//! # The simulator
//! Behind the feature `simulator` (adds an HTTP server and the program `paystrata-simulator`). Authorize.Net listens at
//! `/xml/v1/request.api`, VelocityPay under `/velocity/v1/`.
//!
//! | trigger | gateway | what happens |
//! |---|---|---|
//! | any card that passes Luhn, expiry in the future | Authorize.Net | approved |
//! | card that fails Luhn; malformed expiry; past expiry | Authorize.Net | reason 6; 7; 8, `transId` 0 |
//! | `billTo.zip` 46282 | Authorize.Net | declined, reason 2 |
//! | `billTo.zip` 46299 | Authorize.Net | held, decided by `updateHeldTransactionRequest` |
//! | `billTo.zip` 46201, 03, 04, 05, 06, 07, 08, 09, 11, 14, 17 | Authorize.Net | AVS A, E, G, N, P, R, S, U, W, X, Z; otherwise Y |
//! | `cardCode` 900, 901, 902, 903, 904 | Authorize.Net | CVV M, N, S, U, P |
//! | wrong key order | Authorize.Net | E00003 |
//! | wrong credentials | both | E00007; 401 |
//! | account name with `declined`, `held` | VelocityPay | declined; held |
//! | amount ending in 77 minor units | both | the effect happens, the connection is cut without a reply |
//! | amount ending in 78 | both | the connection is cut before any effect |
//! | amount ending in 79 | both | the reply takes 3 s longer |
//!
//! The amounts act on charges and refunds, once per reference, so that a resend gets its answer.
//!
//! | control endpoint | what |
//! |---|---|
//! | `POST /control/faults` | `{"operation":"purchase","kind":"drop_after","when":{"next":1}}`, or `"when":{"probability":0.1}` |
//! | `GET`, `DELETE /control/faults` | what is set; forget it |
//! | `GET /control/effects?reference=R` | effects under `R`; of all references without it |
//! | `POST /control/settle` | settle now |
//! | `POST /control/expire` | let every authorization that was not captured lapse now |
//! | `GET /control/stats` | requests, cut connections, connections, transactions |
//!
//! Operations are `any`, `purchase`, `authorize`, `capture`, `void`, `refund`, `lookup`; kinds are `delay` (with
//! `delay_ms`), `drop_before`, `drop_after`, `http500` (no effect), `http502` (after the effect), `truncated`,
//! `huge_body`, `busy`, `decline`, `hold`. Effects of a capture or void at Authorize.Net count under its `refId`.
//! It does not simulate partial approvals, eCheck, customer profiles, chargebacks or outgoing webhooks.

mod amount;
mod card;
mod evidence;
mod gateway;
mod observer;
mod outcome;
mod request;
mod resilience;
mod secret;
mod stats;
mod transport;

pub mod authorize_net;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod velocity_pay;

pub use crate::{
    amount::{Amount, AmountError, Currency},
    authorize_net::{AuthorizeNet, AuthorizeNetConfig},
    card::{Card, CardError, CardFields, passes_luhn},
    evidence::Evidence,
    gateway::{Capabilities, Gateway},
    observer::{AttemptReport, BreakerChange, BreakerState, GatewayObserver, NoObserver},
    outcome::{
        DeclineCategory, Effect, LookupOutcome, NotSentReason, Outcome, TransactionState, UnknownReason,
    },
    request::{
        Attempt, Capture, Charge, IdentifierError, Lookup, Method, Reference, Refund, Request, TransactionId,
        Verb, Void,
    },
    resilience::{OperationClass, Overloaded, Patience, ResilienceSettings, Slot},
    secret::Secret,
    stats::Stats,
    transport::{BuildError, check_endpoint},
    velocity_pay::{VelocityPay, VelocityPayConfig},
};
