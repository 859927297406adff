//! Many entries at once: by tag, by prefix, all; removed, or expired so that they can stand in for a load
//! that fails. Each costs the same however many entries it goes over.
//!
//! `cargo run -p paystrata-cache --example tags`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{io, time::Duration};

use paystrata_cache::{Cache, LoadContext, Policy};

type Users = Cache<String, String>;

/// Keys are `organisation/user`; each entry has its organisation as a tag.
async fn read(users: &Users, key: &str) -> Result<(), Box<dyn std::error::Error>> {
    let organisation = key.split('/').next().unwrap_or_default().to_owned();
    let load = move |context: LoadContext<String>| async move {
        context.tag(organisation);
        Ok::<_, io::Error>(Some("loaded".to_owned()))
    };
    let entry = users.get_or_load_entry(key, load).await?;
    println!("  {key}: from {:?}", entry.origin);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy =
        Policy { ttl: Duration::from_secs(60), grace: Duration::from_secs(3_600), ..Policy::default() };
    let users: Users = Cache::builder("users").policy(policy).build();
    let all = ["acme/ada", "acme/bob", "bell/eve"];
    for round in ["nothing is there", "all is there", "acme is void", "a prefix is void"] {
        println!("{round}:");
        for key in all {
            read(&users, key).await?;
        }
        match round {
            "all is there" => drop(users.tag("acme").remove()),
            "acme is void" => drop(users.prefix("bell/").remove()),
            _ => {}
        }
    }

    println!("all is expired, and the store is down:");
    drop(users.expire_all());
    let broken = |_context| async { Err::<Option<String>, _>(io::Error::other("the store is down")) };
    let entry = users.get_or_load_entry("acme/ada", broken).await?;
    println!("  {:?}, stale: {}", entry.value, entry.is_stale);

    println!("all is removed, and the store is down:");
    drop(users.clear());
    println!("  {:?}", users.get_or_load("acme/ada", broken).await);
    Ok(())
}
