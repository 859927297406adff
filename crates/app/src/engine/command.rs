//! What the engine can be asked, and what it answers. Commands are complete: everything a decision needs besides the
//! locked rows stands in them, so that deciding is pure.

use bytes::Bytes;
use paystrata_db::Token;
use uuid::Uuid;

use super::key::{KeepRefusal, KeyClaim};
use super::model::{CaptureMode, ChargeOutcome, OperationKind, PaymentRecord, PaymentStatus, Rail};
use crate::money::{Amount, Currency};

/// One command, with the idempotency key it came under.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Absent only where the API leaves the key optional, and for the service's own settlements.
    pub claim: Option<KeyClaim>,
    /// What to do.
    pub command: Command,
}

/// What the engine can do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Open an account, with or without a balance.
    OpenAccount(Box<OpenAccount>),
    /// Create one payment.
    CreatePayment(Box<CreatePayment>),
    /// Create all of these book payments, or none.
    CreateAll(Group),
    /// Take what an authorised payment holds.
    Capture(Capture),
    /// Release what an authorised payment holds.
    Void(Void),
    /// Give back part or all of what a payment moved.
    Refund(Refund),
    /// Apply what a gateway said.
    Settle(Settlement),
    /// Keep an answer composed by the caller under its key; the first one kept wins.
    Pin(Pin),
}

impl Command {
    /// What its key names, for people; `None` for a group, which is no one thing.
    pub(super) fn resource_id(&self) -> Option<Uuid> {
        match self {
            Self::OpenAccount(open) => Some(open.id),
            Self::CreatePayment(create) => Some(create.id),
            Self::CreateAll(_) => None,
            Self::Capture(Capture { payment, .. })
            | Self::Void(Void { payment, .. })
            | Self::Refund(Refund { payment, .. })
            | Self::Settle(Settlement { payment, .. }) => Some(payment.id),
            Self::Pin(pin) => Some(pin.resource_id),
        }
    }
}

/// A new account.
#[derive(Clone, Debug)]
pub struct OpenAccount {
    /// Chosen by the caller.
    pub id: Uuid,
    /// Owner.
    pub merchant_id: Uuid,
    /// Of all its money.
    pub currency: Currency,
    /// Minor units, zero or more.
    pub overdraft_limit: i64,
    /// Moved from the external account of the currency.
    pub opening_balance: Option<Amount>,
    /// Free word.
    pub kind: String,
    /// Holder.
    pub customer: Option<String>,
    /// JSON object text.
    pub metadata: Option<String>,
}

/// A new payment.
#[derive(Clone, Debug)]
pub struct CreatePayment {
    /// Chosen by the caller; UUIDv7.
    pub id: Uuid,
    /// Owner of both accounts.
    pub merchant_id: Uuid,
    /// Sender; `None` means the external account of the currency.
    pub from: Option<Uuid>,
    /// Receiver.
    pub to: Uuid,
    /// How much.
    pub amount: Amount,
    /// Must be the currency of both accounts.
    pub currency: Currency,
    /// How it travels.
    pub rail: Rail,
    /// When it moves.
    pub capture: CaptureMode,
    /// What the fraud rules said.
    pub fraud: FraudDecision,
    /// The gateway operation to commit with it, on rails that have one.
    pub operation: Option<PlannedOperation>,
    /// The merchant's own name for it.
    pub merchant_reference: Option<String>,
    /// Last four digits of the card.
    pub card_last_four: Option<String>,
    /// JSON object text.
    pub metadata: Option<String>,
}

/// Book payments of which all happen or none. The answer on the whole is composed and kept in the commit that decides
/// them: two sends of one group can then never be told different things.
#[derive(Clone, Debug)]
pub struct Group {
    /// Each under a key of its own.
    pub members: Vec<(KeyClaim, CreatePayment)>,
    /// Writes the answer on the whole.
    pub render: fn(GroupOutcome<'_>) -> Bytes,
}

/// What became of a group.
#[derive(Clone, Copy, Debug)]
pub enum GroupOutcome<'group> {
    /// All happened: the answer on each, in order.
    Applied(&'group [Answer]),
    /// None did.
    Refused {
        /// The first cause.
        refusal: &'group Refusal,
        /// The member that caused it.
        index: usize,
        /// Members of the group.
        count: usize,
    },
}

/// A gateway operation to be committed before its request is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedOperation {
    /// UUIDv7.
    pub id: Uuid,
    /// Our unique name for the attempt at the gateway, at most 20 characters.
    pub reference: String,
    /// How long the sender may take before the resolver owns the operation, in milliseconds.
    pub lease_ms: i64,
}

/// The verdict of the fraud rules with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FraudDecision {
    /// What follows.
    pub verdict: Verdict,
    /// 0 to 1000.
    pub score: i16,
    /// Rule names with what they saw.
    pub reasons: Vec<String>,
}

/// What the fraud rules decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allow,
    /// Fail the payment.
    Reject,
}

/// Take all or part of what is held.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The payment as read before; its accounts never change, its state is decided again under the lock.
    pub payment: PaymentRecord,
    /// Absent means all.
    pub amount: Option<Amount>,
    /// On gateway rails.
    pub operation: Option<PlannedOperation>,
}

/// Release what is held.
#[derive(Clone, Debug)]
pub struct Void {
    /// The payment as read before.
    pub payment: PaymentRecord,
    /// On gateway rails.
    pub operation: Option<PlannedOperation>,
}

/// Give back what was captured.
#[derive(Clone, Debug)]
pub struct Refund {
    /// The payment as read before.
    pub payment: PaymentRecord,
    /// Absent means all that is left.
    pub amount: Option<Amount>,
    /// On gateway rails.
    pub operation: Option<PlannedOperation>,
}

/// What a gateway said about one operation, under the fence of whoever asked.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The payment as read or created before.
    pub payment: PaymentRecord,
    /// Which operation.
    pub operation_id: Uuid,
    /// Key whose answer waits for this outcome.
    pub key_digest: Option<Uuid>,
    /// The fence under which the request was sent; an older one is refused.
    pub fence: i32,
    /// What it said.
    pub outcome: ChargeOutcome,
    /// When the resolver looks at it again if it stays open, in milliseconds from now.
    pub retry_in_ms: i64,
    /// What backs it.
    pub evidence: Evidence,
    /// Writes the answer when a capture, void or refund came to nothing; `None` answers with the payment as it is.
    pub refusals: Option<KeepRefusal>,
}

/// What backs a settlement, already masked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The gateway's id of the transaction.
    pub transaction: Option<String>,
    /// The gateway's code.
    pub code: Option<String>,
    /// Masked excerpt or reason.
    pub text: Option<String>,
}

/// An answer to keep under a key.
#[derive(Clone, Debug)]
pub struct Pin {
    /// What the key names, for people.
    pub resource_id: Uuid,
    /// HTTP status.
    pub status_code: u16,
    /// Exact body.
    pub body: Bytes,
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The decision.
    pub decision: Decision,
    /// A read that carries it sees this command's effects.
    pub token: Token,
}

/// The decision on a command; each is durable when the caller sees it.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Done, with the answer that is kept under the key.
    Answered(Answer),
    /// Nothing was done, and the answer that says why is kept under the key.
    RefusalKept(Answer),
    /// Committed, and now the gateway must be asked.
    Send(Box<Dispatch>),
    /// The key was used before with the same request: this was the answer.
    Replayed(Answer),
    /// The key was used before with the same request, which is still under way.
    InProgress,
    /// Nothing was done, because of this. The key, if any, stays free.
    Refused(Refusal),
}

/// A committed operation that its caller must now send.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The payment as committed.
    pub payment: PaymentRecord,
    /// The operation that was committed with it.
    pub operation: PlannedOperation,
    /// What the gateway is asked for.
    pub kind: OperationKind,
    /// Minor units.
    pub amount: i64,
    /// Under which the answer must be settled.
    pub fence: i32,
    /// The key whose answer waits for it.
    pub key_digest: Option<Uuid>,
    /// How that answer is written when nothing comes of it.
    pub refusals: Option<KeepRefusal>,
}

/// An answer as kept: the same bytes for the first caller and for every replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status_code: u16,
    /// Exact body.
    pub body: Bytes,
    /// The payment behind it, when this command touched one just now.
    pub payment: Option<Box<PaymentRecord>>,
}

/// Which account of a payment is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The sender.
    From,
    /// The receiver.
    To,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such account of this merchant.
    #[error("account not found")]
    AccountNotFound(Side),
    /// It takes no part in payments.
    #[error("account closed")]
    AccountClosed(Side),
    /// Payment and account differ in currency.
    #[error("currency mismatch")]
    CurrencyMismatch(Side),
    /// Sender and receiver are one.
    #[error("same account")]
    SameAccount,
    /// The key was used with another request; the number of the first field that differs.
    #[error("idempotency key reused")]
    KeyReused(u8),
    /// No such payment of this merchant.
    #[error("payment not found")]
    PaymentNotFound,
    /// The payment is not in a state that allows this.
    #[error("payment is {}", .0.as_str())]
    WrongState(PaymentStatus),
    /// More than is left to capture or refund; the largest amount possible.
    #[error("at most {0} minor units are left")]
    MoreThanLeft(i64),
    /// More than is left to refund while other refunds are under way, and not more if they come to nothing; the largest
    /// amount possible now.
    #[error("at most {0} minor units are left until other refunds end")]
    RefundUnderWay(i64),
    /// The account that must give does not have it.
    #[error("insufficient funds")]
    InsufficientFunds,
    /// A balance would pass its bound.
    #[error("limit exceeded")]
    LimitExceeded,
    /// In an all-or-nothing batch, a member failed.
    #[error("payment would fail: {}", .0.as_str())]
    WouldFail(super::model::FailureCode),
    /// A member of an all-or-nothing batch was decided before, by itself under the same key.
    #[error("a member was decided before")]
    MemberDecided,
    /// The gateway declined what was asked of it.
    #[error("declined by the gateway")]
    Declined,
    /// The gateway was provably never asked.
    #[error("gateway unavailable")]
    GatewayUnavailable,
    /// The operation was settled, or taken over, by somebody else.
    #[error("operation already settled")]
    StaleFence,
}

impl Refusal {
    /// Whether it is the answer to this request for good. The others speak of something that is still under way, or of
    /// another request under the key.
    pub(super) fn is_lasting(&self) -> bool {
        !self.is_passing() && !matches!(self, Self::KeyReused(_) | Self::MemberDecided | Self::StaleFence)
    }

    /// Whether a gateway's word that is awaited may remove the cause: the same request may then be accepted.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        use PaymentStatus::{Processing, RequiresReview};
        matches!(self, Self::WrongState(Processing | RequiresReview) | Self::RefundUnderWay(_))
    }
}

/// Why there is no decision.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The queue is full, or the command waited too long in it. Nothing was done.
    #[error("engine is overloaded")]
    Overloaded,
    /// The engine is draining. Nothing was done.
    #[error("engine is shutting down")]
    ShuttingDown,
    /// The database cannot be reached, or somebody else holds a row for too long. Nothing was done.
    #[error("database is unavailable")]
    Unavailable,
    /// The commit was sent and its outcome could not be learned in time, or the lane that ran it broke. Ask again with
    /// the same key.
    #[error("outcome of the commit is unknown")]
    OutcomeUnknown,
    /// The database refused this command alone: a defect, logged where it happened. Nothing was done.
    #[error("command was refused by the database")]
    Rejected,
}

impl OperationKind {
    /// The first effect of a payment, by its capture mode.
    #[must_use]
    pub fn first(capture: CaptureMode) -> Self {
        match capture {
            CaptureMode::Automatic => Self::Purchase,
            CaptureMode::Manual => Self::Authorize,
        }
    }
}
