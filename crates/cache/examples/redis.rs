//! Three more lines, and the values are shared: a second node finds what the first one loaded, and hears what it
//! voids. Redis may go away at any time: then it is slower.
//!
//! `REDIS_URL=redis://127.0.0.1:6379 cargo run -p paystrata-cache --example redis`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{env, error::Error, io, time::Duration};

use paystrata_cache::{Cache, RedisOptions, RedisTier, Version};

fn node(url: &str) -> Result<Cache<String, String>, Box<dyn Error>> {
    let redis = RedisTier::connect(url, RedisOptions::default())?;
    Ok(Cache::builder("prices").redis(&redis).build())
}

/// It connects by itself, and nobody has to wait for it; here it makes the output the same each time.
async fn connected(prices: &Cache<String, String>) {
    while prices.explain("tea").await.mark.incarnation == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
        connected(node).await;
    }

    println!("voided: {:?}", first.invalidate_many(["tea"], Version(1)).await);
    read("first ", &first).await?;
    // It is stored behind the answer.
    tokio::time::sleep(Duration::from_millis(100)).await;
    read("second", &second).await?;
    read("second", &second).await?;
    first.close().await;
    second.close().await;
    Ok(())
}
