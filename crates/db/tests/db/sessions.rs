//! Dedicated connections.

use paystrata_db::{CommitOutcome, CommitTicket, Db, Statement, Token};

use crate::support::{LIMIT, count, until_count, with_database};

const NAMED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND application_name = 'paystrata-db/engine-0'";

#[test]
fn a_session_carries_its_name_and_ends_when_dropped() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let admin = bed.admin().await;
        let session = db.session("engine-0").await.expect("session");
        assert_eq!(count(&admin, NAMED).await, 1);
        let before = session.token().await.expect("token");
        session.client().batch_execute("CREATE TABLE note (body int)").await.expect("create");
        assert!(session.token().await.expect("token") > before);
        drop(session);
        until_count(&admin, NAMED, 0).await;
    });
}

#[test]
fn every_connection_begins_with_the_settings_asked_for() {
    const STRANGE: &str = r"a b\c, -c geqo=off";
    static SHOWN: Statement = Statement::new(
        "SELECT current_setting('test.note'), current_setting('work_mem'), current_setting('geqo')",
        &[],
    );
    with_database(|bed| async move {
        let mut config = bed.config();
        config.server_settings = [("test.note", STRANGE), ("work_mem", "5MB")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let db = Db::connect(config).await.expect("connect");
        let session = db.session("engine-0").await.expect("session");
        let alone = session.client().query_one(SHOWN.sql(), &[]).await.expect("ask");
        let pooled = db.write().await.expect("connection").query_one(&SHOWN, &[]).await.expect("ask");
        for row in [alone, pooled] {
            assert_eq!([0, 1, 2].map(|column| row.get::<_, &str>(column)), [STRANGE, "5MB", "on"]);
        }
    });
}

#[test]
fn a_session_notices_that_its_server_has_gone() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let admin = bed.admin().await;
        let session = db.session("engine-0").await.expect("session");
        assert!(!session.is_closed());
        let end = NAMED.replace("count(*)", "count(pg_terminate_backend(pid))");
        assert_eq!(count(&admin, &end).await, 1);
        let gone = async {
            while !session.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.expect("it is told");
    });
}

#[test]
fn a_worker_can_ask_for_the_outcome_of_its_own_commits() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("engine-0").await.expect("session");
        for (end, is_committed) in [("COMMIT", true), ("ROLLBACK", false)] {
            session.client().batch_execute("BEGIN").await.expect("begin");
            let row = session.client().query_one(CommitTicket::SQL, &[]).await.expect("ticket");
            let ticket = CommitTicket::from_row(&row).expect("a ticket");
            session.client().batch_execute(end).await.expect("end");
            let row = session.client().query_one(Token::SQL, &[]).await.expect("token");
            let token = Token::from_row(&row).expect("a token");
            match db.commit_outcome(ticket).await {
                CommitOutcome::Committed(covering) => assert!(is_committed && covering >= token),
                outcome => assert!(!is_committed && outcome == CommitOutcome::RolledBack),
            }
        }
    });
}

#[test]
fn a_commit_that_hangs_on_a_lost_worker_is_ended_so_that_the_answer_is_final() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("engine-0").await.expect("session");
        session
            .client()
            .batch_execute("CREATE TABLE note (body int); BEGIN; INSERT INTO note VALUES (1)")
            .await
            .expect("begin");
        let row = session.client().query_one(CommitTicket::SQL, &[]).await.expect("ticket");
        let ticket = CommitTicket::from_row(&row).expect("a ticket");
        assert_eq!(db.commit_outcome(ticket).await, CommitOutcome::RolledBack);
        assert!(session.client().batch_execute("COMMIT").await.is_err());
    });
}
