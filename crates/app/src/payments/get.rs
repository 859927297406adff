//! Reads one payment: from the cache, or, with a token, from a node that has seen that write.

use std::sync::Arc;

use bytes::Bytes;
use paystrata_db::{Connection, Db, Token};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::wire;
use crate::app::App;
use crate::documents::{Document, ReadError};
use crate::engine::{OperationError, PaymentRecord, find_payment};
use crate::ids::{MerchantId, PaymentId};

/// The payment as a document, if it is the merchant's.
///
/// # Errors
/// No node could be read.
pub async fn get(
    app: &App,
    merchant: MerchantId,
    id: PaymentId,
    after: Option<Token>,
) -> Result<Option<Arc<Document>>, ReadError> {
    let found = match after {
        Some(token) => {
            load(&app.db, merchant, id.0, Some(token)).await.map_err(ReadError::payment)?.map(Arc::new)
        }
        None => cached(app, merchant, id).await?,
    };
    Ok(found.filter(|document| document.merchant_id == merchant.0))
}

/// The payment as a document, if it is the merchant's: from the cache, or loaded into it.
///
/// # Errors
/// No node could be read.
pub async fn cached(
    app: &App,
    merchant: MerchantId,
    id: PaymentId,
) -> Result<Option<Arc<Document>>, ReadError> {
    let db = app.db.clone();
    let load = move |floor| {
        let db = db.clone();
        async move { load(&db, merchant, id.0, floor).await }
    };
    app.documents.payment(merchant, id.0, load).await
}

async fn load(
    db: &Db,
    merchant: MerchantId,
    id: Uuid,
    after: Option<Token>,
) -> Result<Option<Document>, OperationError> {
    let find = |connection: Arc<Connection>| async move { find_payment(&connection, merchant.0, id).await };
    let mut record = db.read_with(after, find).await?;
    if record.is_none() {
        // `after` may tell of an older write, and the replica may not have replayed this one's: only the primary can
        // say that there is no such payment.
        record = find_payment(&db.write().await?, merchant.0, id).await?;
    }
    Ok(record.as_ref().map(document))
}

fn document(record: &PaymentRecord) -> Document {
    Document::new(record.merchant_id, wire::render(record).to_vec())
}

/// Keeps only the named top-level fields, sorted by name. Names that it does not have are ignored, as
/// they are in every other API with `fields`.
#[must_use]
pub fn narrow(body: &[u8], names: &str) -> Option<Bytes> {
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    let whole: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let kept: Map<String, Value> =
        whole.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect();
    serde_json::to_vec(&kept).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_fields_remain() {
        let narrowed = narrow(br#"{"id":"a","amount":5,"status":"x"}"#, "amount, id,nonsense").unwrap();
        assert_eq!(&narrowed[..], br#"{"amount":5,"id":"a"}"#);
    }
}
