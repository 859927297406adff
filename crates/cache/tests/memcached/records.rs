//! What records do on a real memcached.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use paystrata_cache::{
    Version,
    testkit::whole,
    tier::{Claim, Found, Over, Put, Settlement, Stored, Tier, TierShare, Token, Void, Voiding},
};

use crate::{
    record_model,
    server::{Server, tier, until, until_up},
};

async fn shared(server: &Server) -> (paystrata_cache::memcached::MemcachedTier, Arc<dyn TierShare>) {
    let tier = tier(&[server.address()]);
    let share = tier.share("records");
    until_up(&tier, &[true]).await;
    (tier, share)
}

fn claim(lease: Duration) -> Claim {
    Claim { token: Token::random(), lease, over: Over::Nothing }
}

#[tokio::test]
async fn random_operations_answer_as_the_model_does() {
    let server = Server::start().await;
    let (tier, _share) = shared(&server).await;
    record_model::answers_as_the_model_does(|cache| tier.share(cache)).await;
}

#[tokio::test]
async fn random_operations_on_three_servers_answer_as_the_model_does() {
    let servers = [Server::start().await, Server::start().await, Server::start().await];
    let tier = tier(&servers.iter().map(Server::address).collect::<Vec<_>>());
    let _share = tier.share("");
    until_up(&tier, &[true; 3]).await;
    record_model::answers_as_the_model_does(|cache| tier.share(cache)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_under_contention() {
    let server = Server::start().await;
    let (_tier, share) = shared(&server).await;
    record_model::one_of_many_wins_a_claim(Arc::clone(&share)).await;
    record_model::a_void_is_never_overtaken_by_a_load(Arc::clone(&share)).await;
    record_model::dropped_calls_leave_nothing_behind(share).await;
}

#[tokio::test]
async fn a_value_dies_in_its_time_and_never_later_than_it_said() {
    let server = Server::start().await;
    let (_tier, share) = shared(&server).await;
    let key = Bytes::from_static(b"mortal");
    let lifetime = Duration::from_millis(3_500);
    let put = Put { key: key.clone(), version: Version(1), bytes: Bytes::from_static(b"v"), lifetime };
    assert_eq!(share.put(&[put]).await.and_then(whole), Ok(vec![Stored::Yes]));
    let mut last = lifetime;
    until(async || {
        match share.read(std::slice::from_ref(&key), None).await.and_then(whole).unwrap().remove(0) {
            Found::Value(payload) => {
                assert!(payload.remaining <= last, "{:?} after {last:?}", payload.remaining);
                last = payload.remaining;
                false
            }
            found => {
                assert_eq!(found, Found::Nothing);
                true
            }
        }
    })
    .await;
    assert!(last < lifetime);
}

#[tokio::test]
async fn a_lease_that_runs_out_lets_the_next_one_load() {
    let server = Server::start().await;
    let (_tier, share) = shared(&server).await;
    for (key, floor) in [("cold", Version::NONE), ("voided", Version(5))] {
        let keys = [Bytes::from(key)];
        if floor > Version::NONE {
            let voiding = Voiding { key: keys[0].clone(), version: floor, how: Void::Remove };
            share.void(&[voiding]).await.and_then(whole).unwrap();
        }
        let dead = claim(Duration::from_secs(1));
        assert_eq!(
            share.read(&keys, Some(dead)).await.and_then(whole).unwrap(),
            [Found::Claimed { floor, fallback: None }]
        );
        let next = claim(Duration::from_secs(60));
        until(async || {
            matches!(share.read(&keys, Some(next)).await.and_then(whole).unwrap()[0], Found::Claimed { .. })
        })
        .await;
        let value =
            Settlement::Value { bytes: Bytes::from_static(b"late"), lifetime: Duration::from_secs(60) };
        assert_eq!(
            share.settle(&[(keys[0].clone(), dead.token, value.clone())]).await.and_then(whole),
            Ok(vec![Stored::Refused])
        );
        assert_eq!(
            share.settle(&[(keys[0].clone(), next.token, value)]).await.and_then(whole),
            Ok(vec![Stored::Yes])
        );
    }
}

#[tokio::test]
async fn what_does_not_fit_an_item_is_refused_and_leaves_the_key_to_the_next() {
    let server = Server::start().await;
    let (_tier, share) = shared(&server).await;
    let keys = [Bytes::from_static(b"large")];
    let (bytes, lifetime) = (Bytes::from(vec![7; 1_024 * 1_024]), Duration::from_secs(600));
    let first = claim(lifetime);
    share.read(&keys, Some(first)).await.and_then(whole).unwrap();
    let settlement = Settlement::Value { bytes: bytes.clone(), lifetime };
    assert_eq!(
        share.settle(&[(keys[0].clone(), first.token, settlement)]).await.and_then(whole),
        Ok(vec![Stored::Refused])
    );
    let found = share.read(&keys, Some(claim(lifetime))).await.and_then(whole).unwrap();
    assert_eq!(found, [Found::Claimed { floor: Version::NONE, fallback: None }]);

    // A write that has no room ends what was there before it.
    let small =
        Put { key: keys[0].clone(), version: Version(1), bytes: Bytes::from_static(b"old"), lifetime };
    assert_eq!(share.put(std::slice::from_ref(&small)).await.and_then(whole), Ok(vec![Stored::Yes]));
    let large = Put { version: Version(2), bytes, ..small };
    assert_eq!(share.put(&[large]).await.and_then(whole), Ok(vec![Stored::Refused]));
    let found = share.read(&keys, Some(claim(lifetime))).await.and_then(whole).unwrap();
    assert_eq!(found, [Found::Claimed { floor: Version(2), fallback: None }]);
}

#[tokio::test]
async fn values_close_to_the_limit_of_an_item_are_stored() {
    let server = Server::start().await;
    let (_tier, share) = shared(&server).await;
    for bytes in [1_000_000, 1_024 * 1_024 - 512] {
        let key = Bytes::from(format!("{bytes}"));
        let bytes = Bytes::from(vec![7; bytes]);
        let lifetime = Duration::from_secs(60 * 24 * 3_600);
        let put = Put { key: key.clone(), version: Version(1), bytes: bytes.clone(), lifetime };
        assert_eq!(share.put(&[put]).await.and_then(whole), Ok(vec![Stored::Yes]));
        // A life of 60 days is none that memcached knows; it is not taken for a date long past.
        let found = share.read(&[key], None).await.and_then(whole).unwrap();
        assert!(matches!(&found[0], Found::Value(payload) if payload.bytes == bytes));
    }
}

#[tokio::test]
async fn caches_and_namespaces_do_not_meet_and_foreign_bytes_are_overwritten() {
    let server = Server::start().await;
    let (tier, share) = shared(&server).await;
    let put = Put {
        key: Bytes::from_static(b"k"),
        version: Version(1),
        bytes: Bytes::from_static(b"v"),
        lifetime: Duration::from_secs(600),
    };
    share.put(std::slice::from_ref(&put)).await.and_then(whole).unwrap();
    let keys = [put.key.clone()];
    assert_eq!(tier.share("other").read(&keys, None).await.and_then(whole).unwrap(), [Found::Nothing]);
    assert!(matches!(
        tier.share("records").read(&keys, None).await.and_then(whole).unwrap()[0],
        Found::Value(_)
    ));

    assert_eq!(
        server.say("set ppaystrata:records:k 0 0 7\r\ngarbage\r\n").await.as_deref(),
        Some("STORED\r\n")
    );
    assert_eq!(share.read(&keys, None).await.and_then(whole).unwrap(), [Found::Nothing]);
    let claim = claim(Duration::from_secs(60));
    let found = share.read(&keys, Some(claim)).await.and_then(whole).unwrap();
    assert_eq!(found, [Found::Claimed { floor: Version::NONE, fallback: None }]);
}
