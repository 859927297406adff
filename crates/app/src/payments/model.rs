//! What a payment is asked to be, once the wire has been read: every field is checked, the card is in memory only.

use paystrata_db::Token;
use paystrata_gateway::{Card, Method, Secret};

use crate::engine::{Answer, CaptureMode, EngineError, Rail, Refusal};
use crate::fraud::BlocklistUnread;
use crate::ids::AccountId;
use crate::money::{Amount, Currency};

/// A payment to create.
#[derive(Clone, Debug)]
pub struct NewPayment {
    /// Absent when a card pays.
    pub from: Option<AccountId>,
    /// Receiver.
    pub to: AccountId,
    /// How much.
    pub amount: Amount,
    /// Of both accounts.
    pub currency: Currency,
    /// How it travels.
    pub rail: Rail,
    /// When it moves.
    pub capture: CaptureMode,
    /// What is charged on card rails.
    pub card: Option<CardSource>,
    /// The merchant's own name for it.
    pub merchant_reference: Option<String>,
    /// JSON object text.
    pub metadata: Option<String>,
}

/// A card, or the gateway's token for one.
#[derive(Clone, Debug)]
pub enum CardSource {
    /// As typed by the payer.
    Card(Card),
    /// Single use, made by the gateway's own form.
    Token {
        /// Kind of token.
        descriptor: String,
        /// The token.
        value: Secret,
    },
}

impl CardSource {
    /// For the record and for refunds.
    #[must_use]
    pub fn last_four(&self) -> Option<String> {
        match self {
            Self::Card(card) => Some(card.last4().to_owned()),
            Self::Token { .. } => None,
        }
    }

    /// For the blocklist.
    #[must_use]
    pub fn bin(&self) -> Option<&str> {
        match self {
            Self::Card(card) => Some(card.bin()),
            Self::Token { .. } => None,
        }
    }

    /// For the gateway.
    #[must_use]
    pub fn to_method(&self) -> Method {
        match self {
            Self::Card(card) => Method::Card(card.clone()),
            Self::Token { descriptor, value } => {
                Method::Token { descriptor: descriptor.clone(), value: value.clone() }
            }
        }
    }
}

/// Whether an answer is given for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Just decided.
    First,
    /// Kept from before under the same key.
    Replay,
}

/// A durable answer.
#[derive(Clone, Debug)]
pub struct Done {
    /// Status and exact bytes.
    pub answer: Answer,
    /// First or replay.
    pub occasion: Occasion,
    /// A read that carries it sees this answer's effects.
    pub token: Token,
}

/// Why there is no answer from the write path.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PaymentError {
    /// Nothing was done, for a reason of the request.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The first request under this key has not ended.
    #[error("the first request under this key is under way")]
    InProgress,
    /// The rail is not configured.
    #[error("rail {} is not configured", .0.as_str())]
    RailUnavailable(Rail),
    /// Too many payments are at the rail's gateway already. Nothing was done.
    #[error("too many payments are at the gateway")]
    Overloaded,
    /// The fraud rules cannot be asked yet. Nothing was done.
    #[error("fraud rules")]
    Unjudged(#[from] BlocklistUnread),
    /// The engine gave no decision.
    #[error("engine")]
    Engine(#[from] EngineError),
}
