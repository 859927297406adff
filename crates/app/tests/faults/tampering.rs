//! P2: `paystrata verify` sees each promise about money being broken by hand, names what breaks it, and exits with 1.

use paystrata_app::ids::{AccountId, PaymentId};
use uuid::Uuid;

use crate::binary::paystrata;
use crate::caller::text;
use crate::ground::{Ground, sql};

/// One hand-made wrong, and what `verify` must say about it.
struct Wrong {
    promise: &'static str,
    /// `{account}` and `{payment}` stand for the ones of the test, `{stranger}` for an id that names nothing.
    done: &'static str,
    undone: &'static str,
    named: Named,
}

#[derive(Clone, Copy)]
enum Named {
    Account,
    Payment,
    StrangeAccount,
    StrangePayment,
}

const WRONGS: &[Wrong] = &[
    Wrong {
        promise: "debits equal credits in every currency",
        done: "UPDATE accounts SET posted = posted + 1 WHERE id = '{account}'",
        undone: "UPDATE accounts SET posted = posted - 1 WHERE id = '{account}'",
        named: Named::Account,
    },
    Wrong {
        promise: "every balance is the fold of its entries, and no entry is missing",
        done: "UPDATE accounts SET entry_count = entry_count + 1 WHERE id = '{account}'",
        undone: "UPDATE accounts SET entry_count = entry_count - 1 WHERE id = '{account}'",
        named: Named::Account,
    },
    Wrong {
        promise: "every entry states the balance that its predecessors lead to",
        done: "UPDATE entries SET debit_after = debit_after - 1 WHERE payment_id = '{payment}'",
        undone: "UPDATE entries SET debit_after = debit_after + 1 WHERE payment_id = '{payment}'",
        named: Named::Account,
    },
    Wrong {
        promise: "every entry belongs to an account",
        done: "UPDATE entries SET debit_account = '{stranger}' WHERE payment_id = '{payment}'",
        undone: "UPDATE entries SET debit_account = '{account}' WHERE payment_id = '{payment}'",
        named: Named::StrangeAccount,
    },
    Wrong {
        promise: "no balance is below its limit",
        done: "ALTER TABLE accounts DROP CONSTRAINT accounts_within_limit;
               UPDATE accounts SET held = held + 1000000 WHERE id = '{account}'",
        undone: "UPDATE accounts SET held = held - 1000000 WHERE id = '{account}'",
        named: Named::Account,
    },
    Wrong {
        promise: "every hold belongs to a payment under way",
        done: "UPDATE accounts SET held = held + 1 WHERE id = '{account}'",
        undone: "UPDATE accounts SET held = held - 1 WHERE id = '{account}'",
        named: Named::Account,
    },
    Wrong {
        promise: "every payment moved exactly what it says",
        done: "UPDATE payments SET captured = captured - 1 WHERE id = '{payment}'",
        undone: "UPDATE payments SET captured = captured + 1 WHERE id = '{payment}'",
        named: Named::Payment,
    },
    Wrong {
        promise: "every entry's payment exists",
        done: "UPDATE entries SET payment_id = '{stranger}' WHERE payment_id = '{payment}'",
        undone: "UPDATE entries SET payment_id = '{payment}' WHERE payment_id = '{stranger}'",
        named: Named::StrangePayment,
    },
    Wrong {
        promise: "every state change has its event, without gaps",
        done: "UPDATE outbox SET sequence = sequence + 1 WHERE payment_id = '{payment}'",
        undone: "UPDATE outbox SET sequence = sequence - 1 WHERE payment_id = '{payment}'",
        named: Named::Payment,
    },
    Wrong {
        promise: "every payment that waits for a gateway has an operation that asks",
        done: "UPDATE payments SET status = 1, rail = 2 WHERE id = '{payment}'",
        undone: "UPDATE payments SET status = 4, rail = 1 WHERE id = '{payment}'",
        named: Named::Payment,
    },
    Wrong {
        promise: "every refund under way has an operation that asks",
        done: "UPDATE payments SET refunding = 5 WHERE id = '{payment}'",
        undone: "UPDATE payments SET refunding = 0 WHERE id = '{payment}'",
        named: Named::Payment,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_what_breaks_each_promise_and_exits_with_one() {
    let ground = Ground::new().await;
    let settings = ground.settings(&[]);
    let node = ground.serve(&[]).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let paid = node.caller.pay(&accounts[0], &accounts[1], 100).await;
    node.caller.pay(&accounts[1], &accounts[0], 30).await;
    node.service.stop().await;
    let account: AccountId = accounts[0].parse().expect("an account id");
    let payment: PaymentId = text(&paid.json()["id"]).parse().expect("a payment id");
    // Of the same month as the payment, so that it falls into a partition that is there.
    let stranger = Uuid::now_v7();
    let fill = |text: &str| {
        text.replace("{account}", &account.0.to_string())
            .replace("{payment}", &payment.0.to_string())
            .replace("{stranger}", &stranger.to_string())
    };
    let verify = async || {
        let output = paystrata(&settings, &["verify"]).await;
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let (code, clean) = verify().await;
    assert_eq!(code, Some(0), "{clean}");
    let promises: Vec<&str> =
        clean.lines().filter_map(|line| Some(line.strip_prefix("ok")?.trim())).collect();
    assert_eq!(
        promises,
        WRONGS.iter().map(|wrong| wrong.promise).collect::<Vec<_>>(),
        "each is broken here once"
    );
    for wrong in WRONGS {
        sql(&ground.primary_url, &fill(wrong.done)).await;
        let (code, told) = verify().await;
        assert_eq!(code, Some(1), "{}: {told}", wrong.promise);
        assert!(told.contains(&format!("BROKEN  {}", wrong.promise)), "{}: {told}", wrong.promise);
        let name = match wrong.named {
            Named::Account => account.to_string(),
            Named::Payment => payment.to_string(),
            Named::StrangeAccount => AccountId(stranger).to_string(),
            Named::StrangePayment => PaymentId(stranger).to_string(),
        };
        assert!(told.contains(&name), "{} does not name {name}: {told}", wrong.promise);
        sql(&ground.primary_url, &fill(wrong.undone)).await;
    }
    let (code, told) = verify().await;
    assert_eq!(code, Some(0), "{told}");
}
