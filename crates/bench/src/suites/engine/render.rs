//! How answers are written: exactly as the service writes them, so that they have their real size.

use bytes::Bytes;
use paystrata_app::engine::{CaptureMode, PaymentRecord, PaymentStatus, Rail, Render};
use uuid::Uuid;

/// The service's own.
pub(super) const RENDER: Render =
    Render { payment: paystrata_app::payments::wire::render, account: paystrata_app::accounts::wire::render };

/// The answer to a payment as this suite makes them.
pub(super) fn sample() -> Bytes {
    let amount = 500;
    (RENDER.payment)(&PaymentRecord {
        id: Uuid::now_v7(),
        merchant_id: Uuid::now_v7(),
        from: Uuid::now_v7(),
        to: Uuid::now_v7(),
        amount,
        captured: amount,
        refunded: 0,
        refunding: 0,
        currency: "USD".parse().expect("USD is a currency"),
        rail: Rail::Book,
        status: PaymentStatus::Succeeded,
        failure: None,
        outcome: None,
        capture: CaptureMode::Automatic,
        version: 1,
        updated_at: None,
        merchant_reference: None,
        gateway_transaction: None,
        card_last_four: None,
        metadata: None,
    })
}
