//! Opens the accounts that a run pays between, through the API, each under a key of its own: asked again under the same
//! key, the service gives the same accounts.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use serde_json::json;

use super::client::{Client, Post};
use super::progress;

/// Accounts opened at once.
const AT_ONCE: usize = 32;

/// An account to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAccount {
    /// ISO 4217.
    pub currency: &'static str,
    /// Minor units.
    pub opening_balance: i64,
}

/// Opens them all; ids in the given order. Account `n` is opened under the key `{prefix}-account-{n}`.
///
/// # Errors
/// The first account that cannot be opened.
pub async fn open(client: &Client, prefix: &str, accounts: &[NewAccount]) -> anyhow::Result<Vec<String>> {
    let opened = AtomicU64::new(0);
    let requests = accounts.iter().enumerate().map(|(index, account)| {
        let opened = &opened;
        async move {
            let id = open_one(client, &format!("{prefix}-account-{index}"), *account).await?;
            opened.fetch_add(1, Ordering::Relaxed);
            Ok::<String, anyhow::Error>(id)
        }
    });
    let all = stream::iter(requests).buffered(AT_ONCE).try_collect();
    let total = u64::try_from(accounts.len()).unwrap_or(u64::MAX);
    progress::watch("open accounts", total, &opened, all).await
}

async fn open_one(client: &Client, key: &str, account: NewAccount) -> anyhow::Result<String> {
    let body =
        json!({"currency": account.currency, "opening_balance": account.opening_balance, "kind": "load"});
    let post = Post { path: "/v1/accounts", key, body: &body.to_string() };
    let answer = client.post_patiently(post).await.answer.context("open an account")?;
    if answer.status != StatusCode::CREATED {
        bail!("open an account: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    answer.text("id").context("an account without an id")
}
