//! The first tier alone: one load however many ask, and none that outlives an invalidation.
//!
//! `cargo run -p paystrata-cache --example l1_only`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::future::join_all;
use paystrata_cache::{Cache, LoadContext, Policy, Version};

async fn load(context: LoadContext<Arc<str>>) -> Result<Option<Arc<str>>, Infallible> {
    println!("  loading what is at least as new as {:?}", context.floor());
    tokio::time::sleep(Duration::from_millis(10)).await;
    Ok(Some("Ada".into()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let names: Cache<u64, Arc<str>> = Cache::builder("names")
        .policy(Policy { ttl: Duration::from_secs(60), ..Policy::default() })
        .weigher(|_id, name: &Arc<str>| name.len())
        .build();

    println!("a thousand ask for the same name:");
    let answers = join_all((0..1_000).map(|_| names.get_or_load(&7, load))).await;
    println!("  {} answers", answers.iter().flatten().flatten().count());

    println!("a hit needs no await: {:?}", names.get(&7));

    println!("the name changes, in version 42 of the store:");
    drop(names.invalidate_many([&7], Version(42)));
    println!("  {:?} is left, and the next load is told", names.get(&7));
    let entry = names.get_or_load_entry(&7, load).await?;
    println!("  {:?} from {:?}", entry.value, entry.origin);

    println!("{:#?}", names.explain(&7).await);
    Ok(())
}
