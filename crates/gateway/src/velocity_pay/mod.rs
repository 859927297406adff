//! VelocityPay: a JSON gateway with native idempotency keys.
//!
//! # Wire format
//! All under the configured base URL, `Authorization: Bearer <key>`, amounts in integer minor units.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/charges` | `{"reference","amount","currency","source","destination","capture"}` | 201 charge |
//! | `GET /v1/charges?reference=R` | | 200 `{"data":[charge]}`: the charge `R`, or the one an operation `R` acted on |
//! | `GET /v1/charges/{id}` | | 200 charge |
//! | `POST /v1/charges/{id}/capture` | `{"reference","amount"}` | 200 charge |
//! | `POST /v1/charges/{id}/void` | `{"reference"}` | 200 charge |
//! | `POST /v1/charges/{id}/refund` | `{"reference","amount"}` | 200 charge |
//!
//! Every POST carries `Idempotency-Key`: the reference. The same key with the same body gets the first answer again,
//! with `Idempotent-Replayed: true`; with another body 422
//! `idempotency_key_reused`; while the first is still running 409. A charge is
//! `{"id","reference","status","amount","captured","refunded","currency","decline_code"?,"operations":[{"reference","kind","amount"}]}`;
//! its status is `authorized`, `captured`, `settled`, `held`, `declined`, `voided`, `expired` (an authorization that lapsed)
//! or `refunded`. Errors are `{"error":{"code","message"}}`: 4xx moved nothing, 429 and 503 carry `Retry-After`, 5xx tells
//! nothing. A capture, void or refund of a charge that was voided or has lapsed is refused with 422 `charge_voided` or
//! `charge_expired`; a void is then taken for done, as nothing is held any more. Where no void under its own reference is
//! found, the charge is asked for, and one that is voided or has lapsed says the same.
//!
//! Never resends under another key, and never reads a 5xx as a refusal.

mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Method as HttpMethod, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
};

use self::wire::{ChargeBody, ChargeReply, ChargesReply, ErrorReply, FollowUpBody};
use crate::{
    evidence::Evidence,
    gateway::{Capabilities, Gateway},
    observer::GatewayObserver,
    outcome::{DeclineCategory, Effect, LookupOutcome, NotSentReason, Outcome, UnknownReason},
    request::{Attempt, Charge, Lookup, Method, Reference, Request, TransactionId, Verb},
    resilience::{
        Completed, OperationClass, Overloaded, Patience, ResilienceSettings, Slot, Stack,
        class::Written,
        deadline::Deadline,
        failure::{AttemptFailure, CallFailure},
    },
    secret::Secret,
    stats::Stats,
    transport::{BuildError, Exchange, Reply, Transport, parse_endpoint},
};

/// How long VelocityPay keeps a key.
const KEY_RETENTION: Duration = Duration::from_secs(86_400);

/// How to reach a VelocityPay account.
#[derive(Debug, Clone)]
pub struct VelocityPayConfig {
    /// For logs and labels.
    pub name: String,
    /// What stands before `/v1/charges`; http is accepted on loopback only.
    pub base_url: String,
    /// The API key.
    pub api_key: Secret,
    /// The longest a connection may take to make.
    pub connect_timeout: Duration,
    /// The bounds of the stack.
    pub resilience: ResilienceSettings,
}

impl VelocityPayConfig {
    /// With the default bounds and a connect timeout of 3 s.
    pub fn new(base_url: impl Into<String>, api_key: Secret) -> Self {
        Self {
            name: "velocity_pay".to_owned(),
            base_url: base_url.into(),
            api_key,
            connect_timeout: Duration::from_secs(3),
            resilience: ResilienceSettings::default(),
        }
    }
}

/// A client of one VelocityPay account.
#[derive(Debug)]
pub struct VelocityPay {
    name: String,
    charges: Url,
    api_key: Secret,
    authorization: HeaderValue,
    transport: Transport,
    stack: Stack,
}

/// An understood reply.
enum Answer {
    Charge(ChargeReply),
    Charges(ChargesReply),
    /// 4xx: nothing moved.
    Refused {
        status: u16,
        error: ErrorReply,
    },
}

impl VelocityPay {
    /// Checks the configuration and sets the client up; connects to nothing yet.
    pub fn new(config: VelocityPayConfig, observer: Arc<dyn GatewayObserver>) -> Result<Self, BuildError> {
        let base = config.base_url.trim_end_matches('/');
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", config.api_key.expose()))
            .map_err(|_| BuildError::Credential("api_key"))?;
        authorization.set_sensitive(true);
        if config.api_key.expose().is_empty() {
            return Err(BuildError::Credential("api_key"));
        }
        Ok(Self {
            charges: parse_endpoint(&format!("{base}/v1/charges"))?,
            transport: Transport::new(config.connect_timeout)?,
            stack: Stack::new(&config.name, config.resilience, observer),
            name: config.name,
            api_key: config.api_key,
            authorization,
        })
    }

    fn follow_up_url(&self, parent: &TransactionId, action: &str) -> Url {
        let mut url = self.charges.clone();
        // Ids hold letters, digits, hyphens and underscores only, so they stay one path segment.
        url.set_path(&format!("{}/{parent}/{action}", self.charges.path()));
        url
    }

    async fn post(
        &self,
        url: Url,
        key: &Reference,
        body: Vec<u8>,
        deadline: Deadline,
    ) -> Result<Completed<(Answer, Evidence)>, CallFailure> {
        let idempotency_key = HeaderValue::from_str(key.as_str())
            .expect("references are letters, digits, hyphens and underscores");
        let exchange = Exchange {
            method: HttpMethod::POST,
            url,
            headers: vec![
                (AUTHORIZATION, self.authorization.clone()),
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (HeaderName::from_static("idempotency-key"), idempotency_key),
            ],
            body: body.into(),
        };
        let exchange = &exchange;
        let class = OperationClass::IdempotentWrite(key.clone());
        let attempt = |timeout| async move {
            let reply = self.transport.send(exchange, timeout).await?;
            self.parse(&reply, |body| serde_json::from_slice(body).map(Answer::Charge))
        };
        self.stack.run(&class, deadline, attempt).await
    }

    async fn read(
        &self,
        url: Url,
        deadline: Deadline,
        read: fn(&[u8]) -> Result<Answer, serde_json::Error>,
    ) -> Result<(Answer, Evidence), CallFailure> {
        let headers = vec![(AUTHORIZATION, self.authorization.clone())];
        let exchange = Exchange { method: HttpMethod::GET, url, headers, body: bytes::Bytes::new() };
        let exchange = &exchange;
        let attempt = |timeout| async move {
            let reply = self.transport.send(exchange, timeout).await?;
            self.parse(&reply, read)
        };
        Ok(self.stack.run(&OperationClass::Read, deadline, attempt).await?.value)
    }

    /// The charge or operation under the attempt's own reference.
    async fn find(&self, query: &Lookup, deadline: Deadline) -> LookupOutcome {
        let mut url = self.charges.clone();
        url.query_pairs_mut().append_pair("reference", query.reference.as_str());
        let reason =
            match self.read(url, deadline, |body| serde_json::from_slice(body).map(Answer::Charges)).await {
                Ok((Answer::Charges(charges), evidence)) => return charges.into_lookup(query, evidence),
                Err(failure) => return failure.into_lookup(),
                Ok((Answer::Charge(_), _)) => UnknownReason::Malformed,
                // The question was refused, which says nothing about the attempt.
                Ok((Answer::Refused { .. }, _)) => UnknownReason::NotAsked(NotSentReason::Undecided),
            };
        LookupOutcome::Unknown { reason }
    }

    /// What a void was to undo, if it holds nothing any more, whoever or whatever ended it. No answer leaves the void what it
    /// is without one: not found.
    async fn find_undone(&self, parent: &TransactionId, deadline: Deadline) -> Option<LookupOutcome> {
        let mut url = self.charges.clone();
        url.set_path(&format!("{}/{parent}", self.charges.path()));
        match self.read(url, deadline, |body| serde_json::from_slice(body).map(Answer::Charge)).await {
            Ok((Answer::Charge(charge), evidence)) => charge.into_undone(parent, evidence),
            _ => None,
        }
    }

    fn parse(
        &self,
        reply: &Reply,
        read: impl FnOnce(&[u8]) -> Result<Answer, serde_json::Error>,
    ) -> Result<(Answer, Evidence), AttemptFailure> {
        let evidence = Evidence::from_reply(&reply.body, &[&self.api_key]);
        let malformed = |evidence| AttemptFailure::uncertain(UnknownReason::Malformed, Some(evidence));
        match reply.status {
            200 | 201 => match read(&reply.body) {
                Ok(answer) => Ok((answer, evidence)),
                Err(_) => Err(malformed(evidence)),
            },
            // Busy, or a key that is in use by an earlier send of ours.
            status @ (408 | 409 | 425 | 429) | status @ (300..=399 | 500..=599) => {
                let reason = if matches!(status, 429 | 503) {
                    UnknownReason::Busy
                } else {
                    UnknownReason::Status(status)
                };
                let failure = AttemptFailure::uncertain(reason, Some(evidence));
                Err(AttemptFailure { pause: reply.retry_after, ..failure })
            }
            status @ 400..=499 => match serde_json::from_slice(&reply.body) {
                Ok(error) => Ok((Answer::Refused { status, error }, evidence)),
                // Not VelocityPay's own words: something in between answered.
                Err(_) => Err(malformed(evidence)),
            },
            _ => Err(malformed(evidence)),
        }
    }

    async fn charge(&self, charge: &Charge, verb: Verb) -> Outcome {
        let Method::Accounts { source, destination } = &charge.method else {
            return Outcome::Declined {
                code: "unsupported_method".to_owned(),
                reason: "VelocityPay moves money between accounts.".to_owned(),
                category: DeclineCategory::Request,
                evidence: None,
            };
        };
        let body = ChargeBody::new(charge, source, destination, verb);
        let body = serde_json::to_vec(&body).expect("structs of text and numbers always serialise");
        let deadline = Deadline::after(charge.deadline);
        let answer = self.post(self.charges.clone(), &charge.reference, body, deadline).await;
        settle(answer, if verb == Verb::Authorize { Effect::Authorized } else { Effect::Captured })
    }

    async fn follow_up(
        &self,
        parent: &TransactionId,
        verb: Verb,
        body: FollowUpBody<'_>,
        deadline: Duration,
    ) -> Outcome {
        let reference = body.key().clone();
        let body = serde_json::to_vec(&body).expect("structs of text and numbers always serialise");
        let url = self.follow_up_url(parent, verb.as_str());
        let effect = match verb {
            Verb::Void => Effect::Voided,
            Verb::Refund => Effect::Refunded,
            Verb::Purchase | Verb::Authorize | Verb::Capture => Effect::Captured,
        };
        match self.post(url, &reference, body, Deadline::after(deadline)).await {
            Ok(Completed { value: (Answer::Refused { error, .. }, evidence), .. })
                if verb == Verb::Void && error.is_undone() =>
            {
                Outcome::Approved { transaction: parent.clone(), auth_code: None, effect, evidence }
            }
            answer => settle(answer, effect),
        }
    }
}

fn settle(completed: Result<Completed<(Answer, Evidence)>, CallFailure>, effect: Effect) -> Outcome {
    let completed = match completed {
        Ok(completed) => completed,
        Err(failure) => return failure.into(),
    };
    let attempt = match completed.written_before {
        Written::Nothing => Attempt::First,
        Written::Maybe => Attempt::Resend,
    };
    judge(completed.value, effect).after(attempt)
}

fn judge(answer: (Answer, Evidence), effect: Effect) -> Outcome {
    match answer {
        (Answer::Charge(charge), evidence) => charge.into_outcome(effect, evidence),
        (Answer::Charges(_), evidence) => {
            Outcome::Unknown { reason: UnknownReason::Malformed, evidence: Some(evidence) }
        }
        // The key belongs to another body, so something was done under it that is not this request.
        (Answer::Refused { error, .. }, evidence) if error.is_key_reused() => {
            Outcome::Unknown { reason: UnknownReason::Contradiction, evidence: Some(evidence) }
        }
        (Answer::Refused { status, error }, evidence) => {
            let category =
                if matches!(status, 401 | 403) { DeclineCategory::Account } else { DeclineCategory::Request };
            let (code, reason) = error.into_parts();
            Outcome::Declined { code, reason, category, evidence: Some(evidence) }
        }
    }
}

#[async_trait]
impl Gateway for VelocityPay {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            native_idempotency: true,
            lookup_by_reference: true,
            void_after_capture: true,
            partial_capture: true,
            resend_window: KEY_RETENTION,
        }
    }

    fn stats(&self) -> Stats {
        self.stack.stats()
    }

    async fn reserve(&self, patience: Patience) -> Result<Slot, Overloaded> {
        self.stack.reserve(patience).await
    }

    async fn execute_in(&self, _slot: Slot, request: Request) -> Outcome {
        let verb = request.verb();
        let outcome = match &request {
            Request::Purchase(charge) | Request::Authorize(charge) => self.charge(charge, verb).await,
            Request::Capture(capture) => {
                let body = FollowUpBody::moving(&capture.reference, capture.amount);
                self.follow_up(&capture.parent, verb, body, capture.deadline).await
            }
            Request::Void(void) => {
                self.follow_up(&void.parent, verb, FollowUpBody::plain(&void.reference), void.deadline).await
            }
            Request::Refund(refund) => {
                let body = FollowUpBody::moving(&refund.reference, refund.amount);
                self.follow_up(&refund.parent, verb, body, refund.deadline).await
            }
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
        let deadline = Deadline::after(query.deadline);
        match (self.find(&query, deadline).await, query.verb, &query.parent) {
            (LookupOutcome::Absent, Verb::Void, Some(parent)) => {
                self.find_undone(parent, deadline).await.unwrap_or(LookupOutcome::Absent)
            }
            (found, ..) => found,
        }
    }
}
