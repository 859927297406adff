//! One record through its states, on a real server: table tests of what each call makes of each state.

use std::time::Duration;

use paystrata_cache::{
    Version,
    testkit::whole,
    tier::{Claim, Found, Over, Settlement, Stored, Token, Void},
};

use super::{
    fixture::{Node, bytes, claim, claimed, eventually, held, over, payload, timeless, value},
    server::Server,
};

#[tokio::test]
async fn claim_is_taken_held_and_exchanged_for_a_value() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    assert_eq!(node.look("k").await, Found::Nothing);
    assert_eq!(node.take("k", claim(1)).await, claimed(0, None));
    assert_eq!(node.take("k", claim(2)).await, held(0, None));
    assert_eq!(node.look("k").await, Found::Nothing);
    // The same claim again, as after an answer that was lost.
    assert_eq!(node.take("k", claim(1)).await, claimed(0, None));
    assert_eq!(node.settle("k", 2, value("no")).await, Stored::Refused);
    assert_eq!(node.settle("k", 1, value("yes")).await, Stored::Yes);
    assert_eq!(node.settle("k", 1, value("twice")).await, Stored::Refused);
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("yes")));
    assert_eq!(timeless(node.take("k", claim(3)).await), Found::Value(payload("yes")));
}

#[tokio::test]
async fn void_ends_a_claim_so_that_an_overtaken_load_stores_nothing() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    for how in [Void::Remove, Void::Expire] {
        let key = format!("{how:?}");
        node.take(&key, claim(1)).await;
        node.void(&key, 5, how).await;
        assert_eq!(node.settle(&key, 1, value("old")).await, Stored::Refused);
        assert_eq!(node.take(&key, claim(2)).await, claimed(5, None));
        assert_eq!(node.take(&key, claim(3)).await, held(5, None));
        assert_eq!(node.settle(&key, 2, value("new")).await, Stored::Yes);
    }
}

#[tokio::test]
async fn expire_keeps_the_fallback_and_remove_does_not() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    for (key, how, fallback) in [("e", Void::Expire, Some("old")), ("r", Void::Remove, None)] {
        node.store(key, "old").await;
        node.void(key, 0, how).await;
        assert_eq!(node.look(key).await, Found::Nothing);
        assert_eq!(timeless(node.take(key, claim(1)).await), claimed(0, fallback));
        assert_eq!(timeless(node.take(key, claim(2)).await), held(0, fallback));
        // A failed load leaves it as it was.
        assert_eq!(node.settle(key, 1, Settlement::Release).await, Stored::Yes);
        assert_eq!(timeless(node.take(key, claim(3)).await), claimed(0, fallback));
        // Expired twice, it is still there; removed, it is not.
        node.void(key, 0, Void::Expire).await;
        assert_eq!(timeless(node.take(key, claim(4)).await), claimed(0, fallback));
        node.void(key, 0, Void::Remove).await;
        assert_eq!(node.take(key, claim(5)).await, claimed(0, None));
    }
}

#[tokio::test]
async fn expire_never_brings_an_old_value_back_over_a_new_one() {
    // H16: read and write back would; one step cannot.
    let server = Server::start().await;
    let (one, other) = (Node::on(&server).await, Node::on(&server).await);
    for round in 0..100 {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        one.put("k", 2 * round, &old).await;
        let (_, stored) =
            tokio::join!(one.void("k", 2 * round, Void::Expire), other.put("k", 2 * round + 1, &new));
        assert_eq!(stored, Stored::Yes);
        match timeless(one.take("k", over(9, Over::Value)).await) {
            Found::Claimed { fallback, .. } => assert_eq!(fallback, Some(payload(&new))),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn floor_rises_and_never_falls() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let floor = async |token| match node.take("k", claim(token)).await {
        Found::Claimed { floor, .. } | Found::Held { floor, .. } => floor,
        found => panic!("{found:?}"),
    };
    node.void("k", 5, Void::Remove).await;
    node.void("k", 3, Void::Expire).await;
    assert_eq!(floor(1).await, Version(5));
    node.settle("k", 1, Settlement::Release).await;
    assert_eq!(floor(2).await, Version(5));
    node.settle("k", 2, value("v")).await;
    // Also from under a value that is loaded anew.
    assert_eq!(timeless(node.take("k", over(3, Over::Value)).await), claimed(5, Some("v")));
    node.void("k", u64::MAX, Void::Remove).await;
    node.void("k", 7, Void::Remove).await;
    assert_eq!(floor(4).await, Version::LATEST);
    assert_eq!(node.put("k", 8, "behind").await, Stored::Refused);
}

#[tokio::test]
async fn value_is_claimed_over_to_refresh_it_and_thrown_away_as_poison() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.store("k", "old").await;
    assert_eq!(timeless(node.take("k", over(1, Over::Value)).await), claimed(0, Some("old")));
    assert_eq!(timeless(node.take("k", over(2, Over::Value)).await), held(0, Some("old")));
    assert_eq!(timeless(node.take("k", claim(3)).await), held(0, Some("old")));
    assert_eq!(
        node.settle("k", 1, Settlement::Extend { lifetime: Duration::from_secs(9) }).await,
        Stored::Yes
    );
    let Found::Value(extended) = node.look("k").await else { panic!("it is a value again") };
    assert!(extended.remaining <= Duration::from_secs(9) && extended.bytes == bytes("old"));
    assert_eq!(node.take("k", over(4, Over::Poison)).await, claimed(0, None));
    assert_eq!(
        node.settle("k", 4, Settlement::Extend { lifetime: Duration::from_secs(9) }).await,
        Stored::Refused
    );
    // Refused as it was, it ended the claim.
    assert_eq!(node.take("k", claim(5)).await, claimed(0, None));
}

#[tokio::test]
async fn value_that_is_loaded_ahead_is_read_meanwhile_and_outlives_a_load_that_failed() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.store("k", "old").await;
    let old = Found::Value(payload("old"));
    assert_eq!(timeless(node.take("k", over(1, Over::Ahead)).await), claimed(0, Some("old")));
    assert_eq!(timeless(node.take("k", over(2, Over::Ahead)).await), held(0, Some("old")));
    assert_eq!(timeless(node.take("k", claim(3)).await), old);
    assert_eq!(timeless(node.look("k").await), old);
    assert_eq!(node.settle("k", 1, Settlement::Release).await, Stored::Yes);
    assert_eq!(timeless(node.look("k").await), old);
    // What was loaded and could not be stored makes what is there old.
    node.take("k", over(4, Over::Ahead)).await;
    assert_eq!(node.settle("k", 4, Settlement::Outdate).await, Stored::Yes);
    assert_eq!(timeless(node.take("k", claim(5)).await), claimed(0, Some("old")));
    // A write that is older than what is there takes nothing away from who loads it anew.
    node.put("k", 7, "seven").await;
    node.take("k", over(6, Over::Ahead)).await;
    assert_eq!(node.put("k", 6, "six").await, Stored::Refused);
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("seven")));
    assert_eq!(node.settle("k", 6, value("eight")).await, Stored::Yes);
    // And a change ends the claim and the value, as ever.
    node.take("k", over(7, Over::Ahead)).await;
    node.void("k", 9, Void::Expire).await;
    assert_eq!(node.look("k").await, Found::Nothing);
    assert_eq!(node.settle("k", 7, value("late")).await, Stored::Refused);
}

#[tokio::test]
async fn put_is_refused_below_the_floor_and_ends_claims() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.take("k", claim(1)).await;
    assert_eq!(node.put("k", 10, "ten").await, Stored::Yes);
    assert_eq!(node.settle("k", 1, value("loaded")).await, Stored::Refused);
    assert_eq!(node.put("k", 9, "nine").await, Stored::Refused);
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("ten")));
    assert_eq!(node.put("k", 10, "ten again").await, Stored::Yes);
    node.void("k", 12, Void::Remove).await;
    assert_eq!(node.put("k", 11, "eleven").await, Stored::Refused);
    assert_eq!(node.look("k").await, Found::Nothing);
    assert_eq!(node.put("k", 12, "twelve").await, Stored::Yes);
    assert_eq!(timeless(node.take("k", over(2, Over::Value)).await), claimed(12, Some("twelve")));
}

#[tokio::test]
async fn claim_runs_out_and_its_late_settlement_is_refused() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let brief = |token| Claim { lease: Duration::from_millis(30), ..claim(token) };
    // With and without a floor that keeps the key alive.
    node.void("floor", 5, Void::Remove).await;
    for (key, floor) in [("bare", 0), ("floor", 5)] {
        assert_eq!(node.take(key, brief(1)).await, claimed(floor, None));
        eventually("the claim is free", async || node.take(key, claim(2)).await == claimed(floor, None))
            .await;
        assert_eq!(node.settle(key, 1, value("late")).await, Stored::Refused);
        assert_eq!(node.settle(key, 2, value("in time")).await, Stored::Yes);
    }
}

#[tokio::test]
async fn life_is_rounded_down_and_ends() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let living = |ms| Settlement::Value { bytes: bytes("v"), lifetime: Duration::from_millis(ms) };
    node.take("k", claim(1)).await;
    node.settle("k", 1, living(50)).await;
    if let Found::Value(found) = node.look("k").await {
        assert!(found.remaining <= Duration::from_millis(50));
    }
    eventually("the value has gone", async || node.look("k").await == Found::Nothing).await;
    // T10: no life is not stored, and the longest does not overflow.
    node.take("none", claim(1)).await;
    node.settle("none", 1, living(0)).await;
    assert_eq!(node.look("none").await, Found::Nothing);
    node.take("long", claim(1)).await;
    let forever = Settlement::Value { bytes: bytes("v"), lifetime: Duration::MAX };
    assert_eq!(node.settle("long", 1, forever).await, Stored::Yes);
    assert!(
        matches!(node.look("long").await, Found::Value(found) if found.remaining > Duration::from_secs(86_400 * 365))
    );
}

#[tokio::test]
async fn bytes_that_are_no_record_are_nothing_and_are_written_over() {
    // T66: garbage, cut off, of a wrong type.
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.store("cut", "value").await;
    for spoil in
        ["SET test:numbers:garbage garbage", "SETRANGE test:numbers:cut 0 X", "RPUSH test:numbers:list x"]
    {
        server.ask::<()>(spoil).await;
    }
    for key in ["garbage", "cut", "list"] {
        assert_eq!(node.look(key).await, Found::Nothing, "{key}");
        assert_eq!(node.take(key, claim(1)).await, claimed(0, None), "{key}");
        assert_eq!(node.settle(key, 1, value("good")).await, Stored::Yes, "{key}");
        assert_eq!(timeless(node.look(key).await), Found::Value(payload("good")), "{key}");
    }
    server.ask::<()>("DEL test:numbers:list").await;
    server.ask::<()>("RPUSH test:numbers:list x").await;
    node.void("list", 3, Void::Remove).await;
    let keys = ["list", "garbage"].map(bytes);
    let found = node.share.read(&keys, Some(claim(4))).await.and_then(whole).unwrap();
    assert_eq!(timeless(found[0].clone()), claimed(3, None));
    assert!(node.tier.is_up());
}

#[tokio::test]
async fn server_without_room_is_read_and_not_written() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.store("old", "value").await;
    // No memory, and no replica that would have what is written.
    for (number, (state, over)) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ]
    .into_iter()
    .enumerate()
    {
        server.ask::<()>(state).await;
        let new = format!("new {number}");
        for _ in 0..10 {
            assert_eq!(timeless(node.take("old", claim(1)).await), Found::Value(payload("value")), "{state}");
            assert_eq!(node.take(&new, claim(1)).await, Found::Nothing, "{state}");
        }
        assert!(node.tier.is_up(), "{state}");
        server.ask::<()>(over).await;
        assert_eq!(node.take(&new, claim(1)).await, claimed(0, None), "{state}");
    }
}

#[tokio::test]
async fn scripts_that_the_server_has_lost_are_sent_again() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.store("k", "value").await;
    server.ask::<()>("SCRIPT FLUSH").await;
    node.void("k", 3, Void::Expire).await;
    server.ask::<()>("SCRIPT FLUSH").await;
    assert_eq!(timeless(node.take("k", claim(1)).await), claimed(3, Some("value")));
    server.ask::<()>("SCRIPT FLUSH").await;
    assert_eq!(node.announce("body", &[]).await.sequence, 1);
}

#[tokio::test]
async fn keys_of_any_bytes_never_meet() {
    // T72, T79.
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let long = "x".repeat(300);
    let odd = [
        "",
        " ",
        "a b",
        "line\nbreak\r\n",
        "*",
        "a*",
        "a{b}c",
        "{b}",
        "{}",
        "%7Bb}",
        "%",
        "%25",
        "a:b",
        ":",
        "ключ",
        "\0",
        &long,
    ];
    for (number, key) in odd.iter().enumerate() {
        assert_eq!(node.put(key, 1, &number.to_string()).await, Stored::Yes);
    }
    for (number, key) in odd.iter().enumerate() {
        assert_eq!(timeless(node.look(key).await), Found::Value(payload(&number.to_string())), "{key:?}");
    }
    use paystrata_cache::tier::Tier;
    for other in ["numbers:", "numbers:a", "number", "Numbers", "", "{numbers}"] {
        let keys = odd.map(bytes);
        let found = node.tier.share(other).read(&keys, None).await.and_then(whole).unwrap();
        assert!(found.iter().all(|found| *found == Found::Nothing), "{other}");
    }
}

#[tokio::test]
async fn batch_answers_in_order_and_like_single_calls() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let keys: Vec<_> = (0..300).map(|number| bytes(&format!("key {number}"))).collect();
    let names: Vec<String> = (0..300).map(|number| format!("key {number}")).collect();
    for (number, name) in names.iter().enumerate() {
        match number % 4 {
            0 => assert_eq!(node.put(name, 1, name).await, Stored::Yes),
            1 => node.void(name, 9, Void::Remove).await,
            2 => drop(node.take(name, claim(5)).await),
            _ => {}
        }
    }
    let found = node.share.read(&keys, Some(claim(6))).await.and_then(whole).unwrap();
    for ((number, name), found) in names.iter().enumerate().zip(found) {
        let expected = match number % 4 {
            0 => Found::Value(payload(name)),
            1 => claimed(9, None),
            2 => held(0, None),
            _ => claimed(0, None),
        };
        assert_eq!(timeless(found), expected, "{name}");
        assert_eq!(timeless(node.take(name, claim(6)).await), expected, "{name}");
    }
    let settlements: Vec<_> =
        names.iter().map(|name| (bytes(name), Token(6), value(&format!("{name}!")))).collect();
    let stored = node.share.settle(&settlements).await.and_then(whole).unwrap();
    let expected = |number| if matches!(number % 4, 1 | 3) { Stored::Yes } else { Stored::Refused };
    assert_eq!(stored, (0..300).map(expected).collect::<Vec<_>>());
}

#[tokio::test]
async fn value_that_was_claimed_over_is_a_fallback_again_when_its_claim_runs_out() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.store("k", "old").await;
    let brief = Claim { lease: Duration::from_millis(30), ..over(1, Over::Value) };
    assert_eq!(timeless(node.take("k", brief).await), claimed(0, Some("old")));
    eventually("the claim is free", async || {
        timeless(node.take("k", claim(2)).await) == claimed(0, Some("old"))
    })
    .await;
    assert_eq!(node.settle("k", 1, value("late")).await, Stored::Refused);
    assert_eq!(node.settle("k", 2, Settlement::Release).await, Stored::Yes);
    assert_eq!(timeless(node.take("k", claim(3)).await), claimed(0, Some("old")));
}

#[tokio::test]
async fn put_that_is_refused_leaves_no_fallback_that_is_older() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.put("k", 5, "five").await;
    node.void("k", 12, Void::Expire).await;
    assert_eq!(node.put("k", 11, "eleven").await, Stored::Refused);
    assert_eq!(node.take("k", claim(1)).await, claimed(12, None));
    // A value was loaded since: it is newer than what is put.
    assert_eq!(node.settle("k", 1, value("loaded at twelve")).await, Stored::Yes);
    assert_eq!(node.put("k", 11, "eleven").await, Stored::Refused);
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("loaded at twelve")));
}
