//! Servers that die and come back.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use paystrata_cache::{
    Cache, TierOptions, Version, YoungServer,
    memcached::{MemcachedOptions, MemcachedTier},
    testkit::whole,
    tier::{Claim, Found, Over, Put, Settlement, Stored, Tier, TierError, Token, Void, Voiding},
};

use tokio::time::timeout;

use crate::server::{LIMIT, Server, tier, until, until_up};

const LIFE: Duration = Duration::from_secs(600);

fn put(key: &Bytes) -> Put {
    Put { key: key.clone(), version: Version(1), bytes: key.clone(), lifetime: LIFE }
}

fn void(key: &Bytes) -> Voiding {
    Voiding { key: key.clone(), version: Version(2), how: Void::Remove }
}

#[tokio::test]
async fn keys_of_a_dead_server_fail_alone_until_it_is_back() {
    let mut servers = [Server::start().await, Server::start().await];
    let tier = tier(&servers.iter().map(Server::address).collect::<Vec<_>>());
    let share = tier.share("c");
    until_up(&tier, &[true, true]).await;
    let keys: Vec<Bytes> = (0..40).map(|number| Bytes::from(format!("k{number}"))).collect();
    share.put(&keys.iter().map(put).collect::<Vec<_>>()).await.and_then(whole).unwrap();

    servers[0].kill();
    until_up(&tier, &[false, true]).await;
    assert!(share.is_up());
    let found = share.read(&keys, None).await.unwrap();
    let is_here = |found: &Result<Found, TierError>| matches!(found, Ok(Found::Value(_)));
    let here: Vec<bool> = found.iter().map(is_here).collect();
    assert!(here.contains(&true) && here.contains(&false));
    assert!(found.iter().all(|found| is_here(found) || *found == Err(TierError::Down)), "{found:?}");
    // What can be voided is, and of the rest it is told that it is not.
    let voidings: Vec<_> = keys.iter().map(void).collect();
    let voided = share.void(&voidings).await.unwrap();
    let expected = |is_here: &bool| if *is_here { Ok(()) } else { Err(TierError::Down) };
    assert_eq!(voided, here.iter().map(expected).collect::<Vec<_>>());
    let found = share.read(&keys, None).await.unwrap();
    let expected = |is_here: &bool| if *is_here { Ok(Found::Nothing) } else { Err(TierError::Down) };
    assert_eq!(found, here.iter().map(expected).collect::<Vec<_>>());
    // So it is with claims: those of the dead server's keys are given up, and no other.
    let claim = Claim { token: Token::random(), lease: LIFE, over: Over::Nothing };
    share.read(&keys, Some(claim)).await.unwrap();
    let releases: Vec<_> = keys.iter().map(|key| (key.clone(), claim.token, Settlement::Release)).collect();
    let released = share.settle(&releases).await.unwrap();
    let expected = |is_here: &bool| Ok(if *is_here { Stored::Yes } else { Stored::Refused });
    assert_eq!(released, here.iter().map(expected).collect::<Vec<_>>());

    servers[0].run().await;
    until_up(&tier, &[true, true]).await;
    share.void(&voidings).await.and_then(whole).unwrap();
    let claim = Claim { token: Token::random(), lease: LIFE, over: Over::Nothing };
    let claimed = Found::Claimed { floor: Version(2), fallback: None };
    assert_eq!(share.read(&keys, Some(claim)).await.and_then(whole).unwrap(), vec![claimed; keys.len()]);

    servers.iter_mut().for_each(Server::kill);
    until_up(&tier, &[false, false]).await;
    assert!(!share.is_up());
    assert_eq!(share.read(&keys, None).await.and_then(whole), Err(TierError::Down));
}

#[tokio::test]
async fn a_cache_goes_on_reading_from_the_server_that_is_left() {
    let mut servers = [Server::start().await, Server::start().await];
    let tier = tier(&servers.iter().map(Server::address).collect::<Vec<_>>());
    let share = tier.share("left");
    until_up(&tier, &[true, true]).await;
    // Patient: how busy the machine is should not decide which value is read.
    let patient = || TierOptions { timeout: LIMIT, ..TierOptions::default() };
    let node = || Cache::<String, u64>::builder("left").tier_with(Arc::new(tier.clone()), patient()).build();
    let keys: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    let told = |value: u64| move |_| async move { Ok::<_, Infallible>(Some(value)) };
    let first = node();
    for key in &keys {
        first.get_or_load(key.as_str(), told(1)).await.unwrap();
    }
    until(async || first.stats().tiers[0].stored == 40).await;

    servers[0].kill();
    until_up(&tier, &[false, true]).await;
    let bytes: Vec<Bytes> = keys.iter().map(|key| Bytes::from(key.clone())).collect();
    let left = share.read(&bytes, None).await.unwrap();
    let is_left = left.iter().map(|found| matches!(found, Ok(Found::Value(_))));
    let (present, absent): (Vec<_>, Vec<_>) = keys.iter().zip(is_left).partition(|(_, is_left)| *is_left);
    // More in a row than close the whole tier for a while.
    assert!(!present.is_empty() && absent.len() > 5, "{} are left", present.len());
    let second = node();
    for (key, is_left) in absent.into_iter().chain(present) {
        let read = second.get_or_load(key.as_str(), told(2)).await.unwrap();
        assert_eq!(read, Some(if is_left { 1 } else { 2 }), "{key}");
    }
    assert_eq!(second.stats().tiers[0].opened, 0);
}

#[tokio::test]
async fn a_server_that_hangs_keeps_the_answers_of_the_other_from_nobody() {
    let servers = [Server::start().await, Server::start().await];
    let addresses = servers.iter().map(Server::address).collect::<Vec<_>>();
    let limit = Duration::from_secs(4);
    let options = MemcachedOptions {
        command_timeout: limit,
        young_server: YoungServer::Trusted,
        ..MemcachedOptions::default()
    };
    let tier = MemcachedTier::connect(&addresses.join(","), options).unwrap();
    let share = tier.share("hangs");
    until_up(&tier, &[true, true]).await;
    let keys: Vec<Bytes> = (0..40).map(|number| Bytes::from(format!("k{number}"))).collect();
    share.put(&keys.iter().map(put).collect::<Vec<_>>()).await.and_then(whole).unwrap();

    servers[0].hang();
    let voidings: Vec<_> = keys.iter().map(void).collect();
    let (found, voided) = tokio::join!(
        timeout(limit, async { share.read(&keys, None).await.unwrap() }),
        // Each is read and then written.
        timeout(limit, async { share.void(&voidings).await.unwrap() }),
    );
    let (found, voided) = (found.expect("within the limit"), voided.expect("within the limit"));
    let here = voided.iter().filter(|voided| voided.is_ok()).count();
    assert!(here > 0 && here < keys.len(), "{here} of them are here");
    for (found, voided) in found.iter().zip(&voided) {
        assert_eq!((found.is_ok(), voided.is_ok()), (voided.is_ok(), found.is_ok()));
        assert!(voided.is_ok() || *voided == Err(TierError::TimedOut), "{voided:?}");
    }
}

#[tokio::test]
async fn a_claim_from_before_a_restart_is_worth_nothing_after_it() {
    let mut server = Server::start().await;
    let tier = tier(&[server.address()]);
    let share = tier.share("c");
    until_up(&tier, &[true]).await;
    let keys = [Bytes::from_static(b"k")];
    let claim = Claim { token: Token::random(), lease: LIFE, over: Over::Nothing };
    assert_eq!(
        share.read(&keys, Some(claim)).await.and_then(whole).unwrap(),
        [Found::Claimed { floor: Version::NONE, fallback: None }]
    );
    let cas = async |server: &Server| {
        let said = server.say("mg ppaystrata:c:k c\r\n").await.unwrap();
        said.split_whitespace().nth(1).unwrap().to_owned()
    };
    let cas_before = cas(&server).await;

    server.kill();
    until_up(&tier, &[false]).await;
    server.run().await;
    until_up(&tier, &[true]).await;
    share.void(&[void(&keys[0])]).await.and_then(whole).unwrap();
    // The server counts anew: the record of the void has the very number that the claim had.
    assert_eq!(cas(&server).await, cas_before);
    let settlement = Settlement::Value { bytes: Bytes::from_static(b"stale"), lifetime: LIFE };
    assert_eq!(
        share.settle(&[(keys[0].clone(), claim.token, settlement)]).await.and_then(whole),
        Ok(vec![Stored::Refused])
    );
    assert_eq!(share.read(&keys, None).await.and_then(whole).unwrap(), [Found::Nothing]);
}

#[tokio::test]
async fn a_server_that_was_just_started_is_taken_to_have_lost_floors_unless_told_otherwise() {
    let server = Server::start().await;
    let seeing = tier(&[server.address()]);
    let blind = MemcachedTier::connect(&server.address(), MemcachedOptions::default()).unwrap();
    let (share, other) = (blind.share("c"), seeing.share("c"));
    until_up(&blind, &[true]).await;
    until_up(&seeing, &[true]).await;
    let keys = [Bytes::from_static(b"k")];
    let claim = Claim { token: Token::random(), lease: LIFE, over: Over::Nothing };
    let claimed = Found::Claimed { floor: Version::LATEST, fallback: None };
    assert_eq!(share.read(&keys, Some(claim)).await.and_then(whole).unwrap(), [claimed]);
    let settlement = Settlement::Value { bytes: Bytes::from_static(b"loaded"), lifetime: LIFE };
    assert_eq!(
        share.settle(&[(keys[0].clone(), claim.token, settlement)]).await.and_then(whole),
        Ok(vec![Stored::Yes])
    );
    assert!(matches!(share.read(&keys, None).await.and_then(whole).unwrap()[..], [Found::Value(_)]));
    // Whether a value that is put was overtaken cannot be told: it is not stored, and the old one goes.
    assert_eq!(
        share.put(&[Put { version: Version(7), ..put(&keys[0]) }]).await.and_then(whole),
        Ok(vec![Stored::Refused])
    );
    assert_eq!(share.read(&keys, None).await.and_then(whole).unwrap(), [Found::Nothing]);
    // The floor is kept for those who can tell.
    assert_eq!(
        other.put(&[Put { version: Version(6), ..put(&keys[0]) }]).await.and_then(whole),
        Ok(vec![Stored::Refused])
    );
    assert_eq!(
        other.put(&[Put { version: Version(7), ..put(&keys[0]) }]).await.and_then(whole),
        Ok(vec![Stored::Yes])
    );
}
