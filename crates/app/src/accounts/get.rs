//! Reads one account: from the cache, or, with a token, from a node that has seen that write.

use std::sync::Arc;

use paystrata_db::{Connection, Db, Token};
use uuid::Uuid;

use super::store::{AccountReadError, find_account};
use super::wire;
use crate::app::App;
use crate::documents::{Document, ReadError};
use crate::engine::AccountRecord;
use crate::ids::{AccountId, MerchantId};

/// The account as a document, if it is the merchant's.
///
/// # Errors
/// No node could be read.
pub async fn get(
    app: &App,
    merchant: MerchantId,
    id: AccountId,
    after: Option<Token>,
) -> Result<Option<Arc<Document>>, ReadError> {
    let found = match after {
        Some(token) => load(&app.db, id.0, Some(token)).await.map_err(ReadError::account)?.map(Arc::new),
        None => cached(app, id).await?,
    };
    Ok(found.filter(|document| document.merchant_id == merchant.0))
}

/// The account as a document, whose ever it is: from the cache, or loaded into it.
///
/// # Errors
/// No node could be read.
pub async fn cached(app: &App, id: AccountId) -> Result<Option<Arc<Document>>, ReadError> {
    let db = app.db.clone();
    let load = move |floor| {
        let db = db.clone();
        async move { load(&db, id.0, floor).await }
    };
    app.documents.account(id.0, load).await
}

async fn load(db: &Db, id: Uuid, after: Option<Token>) -> Result<Option<Document>, AccountReadError> {
    let find = |connection: Arc<Connection>| async move { find_account(&connection, id).await };
    let mut record = db.read_with(after, find).await?;
    if record.is_none() {
        // `after` may tell of an older write, and the replica may not have replayed this one's: only the primary can
        // say that there is no such account.
        record = find_account(&db.write().await?, id).await?;
    }
    Ok(record.as_ref().map(document))
}

fn document(record: &AccountRecord) -> Document {
    Document::new(record.merchant_id, wire::render(record).to_vec())
}
