//! Authorize.Net's JSON API.
//! One URL, always HTTP 200, a byte order mark in front, keys in the order of `AnetApiSchema.xsd`, and no idempotency
//! key: a charge is made safe to resend by a unique `invoiceNumber` and an explicit `duplicateWindow`, and an unknown
//! outcome is resolved by searching lists. Facts: developer.authorize.net/api/reference.
//! Never resends a write whose bytes may have left, and never believes a duplicate's id before asking.

mod charge;
mod codes;
mod follow_up;
mod lookup;
mod refund;
mod reply;
mod webhook;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;

pub use self::webhook::{SignatureError, WebhookEvent, verify_webhook};
use self::{
    reply::{Answer, CreateReply, Details, DetailsReply},
    wire::{Credentials, Envelope},
};
use crate::{
    evidence::Evidence,
    gateway::{Capabilities, Gateway},
    observer::GatewayObserver,
    outcome::{LookupOutcome, NotSentReason, Outcome, UnknownReason},
    request::{Lookup, Request, TransactionId},
    resilience::{
        OperationClass, Overloaded, Patience, ResilienceSettings, Slot, Stack,
        deadline::Deadline,
        failure::{AttemptFailure, CallFailure},
    },
    secret::Secret,
    stats::Stats,
    transport::{BuildError, Exchange, Reply, Transport, parse_endpoint, wiped_bytes},
};

/// The longest window Authorize.Net honours: 8 hours.
pub(crate) const DUPLICATE_WINDOW: Duration = Duration::from_secs(28_800);
/// The longest API login id, by `AnetApiSchema.xsd`.
pub const LOGIN_CHARACTERS_MAX: usize = 25;
/// The longest transaction key, likewise.
pub const TRANSACTION_KEY_CHARACTERS_MAX: usize = 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How to reach an Authorize.Net account.
#[derive(Debug, Clone)]
pub struct AuthorizeNetConfig {
    /// For logs and labels.
    pub name: String,
    /// Such as `https://api.authorize.net/xml/v1/request.api`; http is accepted on loopback only.
    pub endpoint: String,
    /// The API login id.
    pub login: Secret,
    /// The transaction key.
    pub transaction_key: Secret,
    /// The longest a connection may take to make, name resolution and TLS included.
    pub connect_timeout: Duration,
    /// The bounds of the stack.
    pub resilience: ResilienceSettings,
}

impl AuthorizeNetConfig {
    /// With the default bounds and a connect timeout of 3 s.
    pub fn new(endpoint: impl Into<String>, login: Secret, transaction_key: Secret) -> Self {
        Self {
            name: "authorize_net".to_owned(),
            endpoint: endpoint.into(),
            login,
            transaction_key,
            connect_timeout: Duration::from_secs(3),
            resilience: ResilienceSettings::default(),
        }
    }
}

/// A client of one Authorize.Net account. Cheap to share behind an `Arc`; owns its connection pool.
#[derive(Debug)]
pub struct AuthorizeNet {
    name: String,
    endpoint: Url,
    login: Secret,
    transaction_key: Secret,
    transport: Transport,
    stack: Stack,
}

impl AuthorizeNet {
    /// Checks the configuration and sets the client up; connects to nothing yet.
    pub fn new(config: AuthorizeNetConfig, observer: Arc<dyn GatewayObserver>) -> Result<Self, BuildError> {
        check_credential("login", &config.login, LOGIN_CHARACTERS_MAX)?;
        check_credential("transaction_key", &config.transaction_key, TRANSACTION_KEY_CHARACTERS_MAX)?;
        Ok(Self {
            endpoint: parse_endpoint(&config.endpoint)?,
            transport: Transport::new(config.connect_timeout)?,
            stack: Stack::new(&config.name, config.resilience, observer),
            name: config.name,
            login: config.login,
            transaction_key: config.transaction_key,
        })
    }

    fn credentials(&self) -> Credentials<'_> {
        Credentials { name: self.login.expose(), transaction_key: self.transaction_key.expose() }
    }

    /// Sends one method and parses its reply; retried as `class` allows.
    async fn call<Content: Serialize, Wanted: Answer>(
        &self,
        class: &OperationClass,
        deadline: Deadline,
        content: &Content,
    ) -> Result<(Wanted, Evidence), CallFailure> {
        let body = serde_json::to_vec(content).expect("structs of text always serialise");
        let exchange = Exchange {
            method: Method::POST,
            url: self.endpoint.clone(),
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
            body: wiped_bytes(body),
        };
        let exchange = &exchange;
        let attempt = |timeout| async move {
            let reply = self.transport.send(exchange, timeout).await?;
            self.parse(&reply)
        };
        Ok(self.stack.run(class, deadline, attempt).await?.value)
    }

    fn parse<Wanted: Answer>(&self, reply: &Reply) -> Result<(Wanted, Evidence), AttemptFailure> {
        let evidence = Evidence::from_reply(&reply.body, &[&self.login, &self.transaction_key]);
        let body = reply.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&reply.body);
        let failure = match (reply.status, serde_json::from_slice::<Wanted>(body)) {
            (200, Ok(answer)) if !answer.is_busy() => return Ok((answer, evidence)),
            (200, Ok(_)) => UnknownReason::Busy,
            (200, Err(_)) => UnknownReason::Malformed,
            (status, _) => UnknownReason::Status(status),
        };
        let failure = AttemptFailure::uncertain(failure, Some(evidence));
        Err(AttemptFailure { pause: reply.retry_after, ..failure })
    }

    async fn create(
        &self,
        transaction: &wire::Transaction<'_>,
        reference: &str,
        deadline: Deadline,
    ) -> Result<(CreateReply, Evidence), CallFailure> {
        let envelope = Envelope::create(self.credentials(), reference, transaction);
        self.call(&OperationClass::UnsafeWrite, deadline, &envelope).await
    }

    /// `None` when the gateway knows no such transaction.
    async fn details(
        &self,
        transaction: &TransactionId,
        deadline: Deadline,
    ) -> Result<Option<(Details, Evidence)>, CallFailure> {
        let envelope = Envelope::details(self.credentials(), transaction.as_str());
        let (reply, evidence): (DetailsReply, _) =
            self.call(&OperationClass::Read, deadline, &envelope).await?;
        match reply.into_details() {
            Ok(Some(details)) if details.trans_id.as_str() != Some(transaction.as_str()) => {
                Err(CallFailure::Unknown { reason: UnknownReason::Malformed, evidence: Some(evidence) })
            }
            Ok(details) => Ok(details.map(|details| (details, evidence))),
            Err(reason) => Err(CallFailure::Unknown { reason, evidence: Some(evidence) }),
        }
    }
}

fn check_credential(name: &'static str, secret: &Secret, characters_max: usize) -> Result<(), BuildError> {
    let text = secret.expose();
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > characters_max || !printable {
        return Err(BuildError::Credential(name));
    }
    Ok(())
}

#[async_trait]
impl Gateway for AuthorizeNet {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            native_idempotency: false,
            lookup_by_reference: false,
            void_after_capture: true,
            partial_capture: true,
            resend_window: DUPLICATE_WINDOW,
        }
    }

    fn stats(&self) -> Stats {
        self.stack.stats()
    }

    async fn reserve(&self, patience: Patience) -> Result<Slot, Overloaded> {
        self.stack.reserve(patience).await
    }

    async fn execute_in(&self, _slot: Slot, request: Request) -> Outcome {
        let outcome = match &request {
            Request::Purchase(charge) => charge::run(self, charge::Kind::Purchase, charge).await,
            Request::Authorize(charge) => charge::run(self, charge::Kind::Authorize, charge).await,
            Request::Capture(capture) => follow_up::capture(self, capture).await,
            Request::Void(void) => follow_up::void(self, void).await,
            Request::Refund(refund) => refund::run(self, refund).await,
        };
        let outcome = outcome.after(request.attempt());
        self.stack.counters().outcome(&outcome);
        outcome
    }

    async fn lookup(&self, query: Lookup) -> LookupOutcome {
        let Ok(_slot) = self.stack.reserve_lookup().await else {
            let reason = UnknownReason::NotAsked(NotSentReason::ConcurrencyLimit);
            return LookupOutcome::Unknown { reason };
        };
        lookup::run(self, &query).await
    }
}
