//! The values are shared: a second node finds what the first one loaded, and hears what it voids. Redis may go away at
//! any time: then it is slower.
//!
//! `REDIS_URL=redis://127.0.0.1:6379 cargo run -p paystrata-cache --example redis`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{env, error::Error, io, sync::Arc, time::Duration};

use paystrata_cache::{Cache, RedisOptions, RedisTier, TierOptions, Version};

/// `Cache::builder("prices").redis(&redis).build()` is all it takes. This one is patient: the output is the same on a
/// machine that stalls.
fn node(url: &str) -> Result<Cache<String, String>, Box<dyn Error>> {
    let (trip, call) = (Duration::from_secs(4), Duration::from_secs(5));
    let options = RedisOptions { command_timeout: trip, ..RedisOptions::default() };
    let redis = Arc::new(RedisTier::connect(url, options)?);
    let patient = TierOptions { timeout: call, ..TierOptions::default() };
    Ok(Cache::builder("prices").tier_with(redis.clone(), patient).backplane(redis).build())
}

/// A service waits for none of this; here it makes the output the same each time.
async fn until(is_so: impl AsyncFn() -> bool) -> Result<(), &'static str> {
    for _ in 0..1_000 {
        if is_so().await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("it does not come to pass")
}

async fn read(name: &str, prices: &Cache<String, String>) -> Result<(), Box<dyn Error>> {
    let load = |_context| async { Ok::<_, io::Error>(Some("9.99".to_owned())) };
    let entry = prices.get_or_load_entry("tea", load).await?;
    println!("{name}: {:?} from {:?}", entry.value, entry.origin);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let (first, second) = (node(&url)?, node(&url)?);
    for node in [&first, &second] {
        node.ready(Duration::from_secs(30)).await?;
    }

    println!("voided: {:?}", first.invalidate_many(["tea"], Version(1)).await);
    until(async || second.explain("tea").await.invalidated.is_some()).await?;
    read("first ", &first).await?;
    // It is stored behind the answer.
    until(async || second.explain("tea").await.tiers[0].state == "fresh").await?;
    read("second", &second).await?;
    read("second", &second).await?;

    println!("voided: {:?}", first.invalidate_many(["tea"], Version(2)).await);
    until(async || second.get("tea").is_none()).await?;
    println!("second: {:?}", second.get("tea"));
    first.close().await;
    second.close().await;
    Ok(())
}
