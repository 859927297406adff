//! The rows the engine decides on, and the small closed vocabularies they are written in. Each vocabulary has one
//! number for the database and one word for people; neither may ever change its meaning.

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ids;
use crate::money::Currency;

/// A number or word outside a vocabulary: the database was written by a newer version, or the text is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no {vocabulary}")]
pub struct UnknownCode {
    /// Which vocabulary was asked.
    pub vocabulary: &'static str,
    /// What was given.
    pub value: String,
}

macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident as $words:literal { $($(#[$variant_doc:meta])* $variant:ident = $code:literal $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every word, in order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The number in the database.
            #[must_use]
            pub fn code(self) -> i16 { match self { $(Self::$variant => $code,)* } }
            /// The word in the API.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $word,)* } }
            /// # Errors
            /// The number is not in the vocabulary.
            pub fn from_code(code: i16) -> Result<Self, UnknownCode> {
                match code { $($code => Ok(Self::$variant),)* _ => Err(UnknownCode { vocabulary: $words, value: code.to_string() }) }
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownCode;
            fn from_str(text: &str) -> Result<Self, UnknownCode> {
                match text { $($word => Ok(Self::$variant),)* _ => Err(UnknownCode { vocabulary: $words, value: text.to_owned() }) }
            }
        }
    };
}

vocabulary!(/// How a payment reaches its receiver.
Rail as "rail" {
    /// Account to account inside this ledger, in one commit.
    Book = 1 "book",
    /// Account to account once the gateway confirms.
    VelocityPay = 2 "velocity_pay",
    /// A card is charged; the receiver is credited from the external account.
    AuthorizeNet = 3 "authorize_net",
});

vocabulary!(/// Where a payment stands.
PaymentStatus as "payment status" {
    /// Waiting for a gateway; with outcome `unknown` it is being resolved.
    Processing = 1 "processing",
    /// The gateway holds it for review.
    RequiresReview = 2 "requires_review",
    /// Money is held, not yet moved.
    Authorized = 3 "authorized",
    /// Money has moved.
    Succeeded = 4 "succeeded",
    /// No money moved, and none will.
    Failed = 5 "failed",
    /// Voided before capture.
    Cancelled = 6 "cancelled",
    /// Part of the captured amount went back.
    PartiallyRefunded = 7 "partially_refunded",
    /// All of the captured amount went back.
    Refunded = 8 "refunded",
});

vocabulary!(/// Why a payment failed.
FailureCode as "failure code" {
    /// The sender's available balance is less than the amount.
    InsufficientFunds = 1 "insufficient_funds",
    /// A fraud rule refused it.
    FraudRejected = 2 "fraud_rejected",
    /// The gateway declined it.
    Declined = 3 "declined",
    /// The receiver's balance would pass its bound.
    LimitExceeded = 4 "limit_exceeded",
    /// The gateway could not be reached, and provably nothing was sent.
    GatewayUnavailable = 5 "gateway_unavailable",
});

vocabulary!(/// What the gateway last said.
ChargeOutcome as "charge outcome" {
    /// It did it.
    Approved = 1 "approved",
    /// It refused.
    Declined = 2 "declined",
    /// It will decide later.
    Held = 3 "held",
    /// Nothing reached it.
    NotSent = 4 "not_sent",
    /// Nobody knows yet.
    Unknown = 5 "unknown",
});

vocabulary!(/// When authorised money moves.
CaptureMode as "capture mode" {
    /// At once.
    Automatic = 0 "automatic",
    /// When the merchant asks.
    Manual = 1 "manual",
});

vocabulary!(/// Whether an account takes part in payments.
AccountStatus as "account status" {
    /// It does.
    Active = 1 "active",
    /// It does not; what is under way still settles.
    Closed = 2 "closed",
});

vocabulary!(/// The effect a gateway is asked for.
OperationKind as "operation kind" {
    /// Charge at once.
    Purchase = 1 "purchase",
    /// Hold only.
    Authorize = 2 "authorize",
    /// Take what was held.
    Capture = 3 "capture",
    /// Release what was held.
    Void = 4 "void",
    /// Give back what was taken.
    Refund = 5 "refund",
});

vocabulary!(/// Where a gateway operation stands; the first three are open and owned by the resolver once due.
OperationStatus as "operation status" {
    /// Committed; the request may be on the wire.
    Sending = 1 "sending",
    /// The outcome is being asked for.
    Unknown = 2 "unknown",
    /// The gateway will decide later.
    Held = 3 "held",
    /// Done.
    Succeeded = 4 "succeeded",
    /// Refused.
    Declined = 5 "declined",
    /// Provably never reached the gateway.
    NotSent = 6 "not_sent",
    /// Given up asking: a person must look; the hold stays.
    Manual = 7 "manual",
});

vocabulary!(/// Why a payment's event was written.
Reason as "event reason" {
    /// It was created.
    Created = 1 "created",
    /// The gateway answered.
    Settled = 2 "settled",
    /// The gateway did not answer.
    OutcomeUnknown = 3 "outcome_unknown",
    /// The merchant captured.
    Captured = 4 "captured",
    /// The merchant voided.
    Voided = 5 "voided",
    /// The merchant refunded.
    Refunded = 6 "refunded",
    /// A capture, void or refund was sent to the gateway.
    Requested = 7 "requested",
});

/// A payment as stored. `version` counts its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentRecord {
    /// UUIDv7; its first 48 bits are the creation millisecond.
    pub id: Uuid,
    /// Owner.
    pub merchant_id: Uuid,
    /// Debited account; the external account of the currency when a card pays.
    pub from: Uuid,
    /// Credited account.
    pub to: Uuid,
    /// Minor units.
    pub amount: i64,
    /// Minor units moved so far.
    pub captured: i64,
    /// Minor units given back.
    pub refunded: i64,
    /// Minor units of refunds under way.
    pub refunding: i64,
    /// Currency of all of them.
    pub currency: Currency,
    /// How it travels.
    pub rail: Rail,
    /// Where it stands.
    pub status: PaymentStatus,
    /// Why it failed.
    pub failure: Option<FailureCode>,
    /// What the gateway last said.
    pub outcome: Option<ChargeOutcome>,
    /// When it captures.
    pub capture: CaptureMode,
    /// Events so far.
    pub version: i32,
    /// Last change after creation.
    pub updated_at: Option<Timestamp>,
    /// The merchant's own name for it.
    pub merchant_reference: Option<String>,
    /// The gateway's name for it.
    pub gateway_transaction: Option<String>,
    /// For refunds and matching; never more of the card.
    pub card_last_four: Option<String>,
    /// JSON object with the merchant's values: names sorted, no white space.
    pub metadata: Option<String>,
}

impl PaymentRecord {
    /// When it was created, to the millisecond.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        Timestamp::from_ms(ids::created_ms(self.id))
    }

    /// What may still be refunded, in minor units.
    #[must_use]
    pub fn refundable(&self) -> i64 {
        self.captured - self.refunded - self.refunding
    }
}

/// An account as the write path sees it, with the profile it was opened with when it is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRecord {
    /// UUIDv7.
    pub id: Uuid,
    /// Owner.
    pub merchant_id: Uuid,
    /// Sum of its entries, minor units.
    pub posted: i64,
    /// Promised to payments under way, minor units.
    pub held: i64,
    /// How far `posted - held` may fall below zero.
    pub overdraft_limit: i64,
    /// Entries so far.
    pub entry_count: i64,
    /// Currency of all of them.
    pub currency: Currency,
    /// Whether it takes part in payments.
    pub status: AccountStatus,
    /// What the merchant calls this sort of account.
    pub kind: String,
    /// The merchant's own name for its holder.
    pub customer: Option<String>,
    /// JSON object with the merchant's values: names sorted, no white space.
    pub metadata: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_lead_back_to_the_same_value() {
        for status in PaymentStatus::ALL {
            assert_eq!(PaymentStatus::from_code(status.code()).unwrap(), *status);
            assert_eq!(status.as_str().parse::<PaymentStatus>().unwrap(), *status);
        }
        for kind in OperationKind::ALL {
            assert_eq!(OperationKind::from_code(kind.code()).unwrap(), *kind);
        }
        assert!(Rail::from_code(0).is_err());
    }
}
