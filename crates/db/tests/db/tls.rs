//! TLS: a server that takes nothing else is used like any other; one that is not to be trusted is told nothing; certificates that
//! clients show; and a pooler in between.

mod direct;

use std::sync::{Arc, Mutex};

use futures_util::TryStreamExt as _;
use paystrata_db::tokio_postgres::Client;
use paystrata_db::{
    BadRows, Bulk, BulkOptions, Class, Config, Db, Error, Method, Migration, Migrator, Statement, TableName,
    TransactionOptions, Type,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::bouncer::Bouncer;
use crate::secured::{Authority, Front, Holds, RSA_KEY, SOUND, Secured, url_at};
use crate::support::{LIMIT, ONE, config, until, url};

#[derive(Clone, Debug, PartialEq)]
struct Note {
    id: i64,
    body: String,
}

paystrata_db::row!(Note { id: INT8, body: TEXT });

static MIGRATOR: Migrator = Migrator::new(&[Migration::from_file(
    "0001_note.sql",
    "CREATE TABLE note (id int8 PRIMARY KEY, body text NOT NULL)",
)]);
static ADD: Statement = Statement::new("INSERT INTO note (id, body) VALUES ($1, 'written')", &[Type::INT8]);
static COUNT: Statement = Statement::new("SELECT count(*) FROM note", &[]);
static SLEEP: Statement = Statement::new("SELECT pg_sleep(3600)", &[]);
const SLEEPING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
const OURS: &str = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
                    WHERE backend_type = 'client backend'";

/// The question for TLS, which stands before everything else that is said.
const QUESTION: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

fn checked(authority: &Authority) -> String {
    format!("sslmode=verify-full&sslrootcert={}", authority.path("authority.pem"))
}

async fn refusal(url: &str) -> String {
    let refused = Db::connect(config(url)).await.err();
    refused.unwrap_or_else(|| panic!("it was let in: {url}")).to_string()
}

async fn asked(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.expect("ask").get(0)
}

async fn until_asked(client: &Client, sql: &str, wanted: i64) {
    let told = async { while asked(client, sql).await != wanted {} };
    assert!(tokio::time::timeout(LIMIT, told).await.is_ok(), "{sql} never gave {wanted}");
}

async fn nobody_speaks_plainly(client: &Client) {
    assert_eq!(asked(client, &format!("{OURS} AND NOT ssl")).await, 0);
    // A monitor's, a pooled one, and the one that asks.
    let secured = asked(client, &format!("{OURS} AND ssl")).await;
    assert!(secured >= 3, "{secured}");
}

/// Drops a statement that would run for an hour, and waits until the server runs it no more.
async fn drop_asleep(db: &Db, watcher: &Client) {
    let connection = db.write().await.expect("acquire");
    tokio::select! {
        outcome = connection.query(&SLEEP, &[]) => panic!("it cannot end by itself: {outcome:?}"),
        () = until_asked(watcher, SLEEPING, 1) => {}
    }
    drop(connection);
    until_asked(watcher, SLEEPING, 0).await;
}

/// Everything that is not a connection of its own kind.
async fn use_all_of(db: &Db) {
    let session = db.session("migrate").await.expect("session");
    assert_eq!(MIGRATOR.up(&session).await.expect("up").len(), 1);
    db.write().await.expect("connection").execute(&ADD, &[&1_i64]).await.expect("write");
    let added = db.transaction(
        TransactionOptions { timeout: LIMIT, ..TransactionOptions::default() },
        |tx| async move { tx.execute(&ADD, &[&2_i64]).await },
    );
    let token = added.await.expect("a transaction").token;
    let read = db.read_after(token).await.expect("connection").query_one(&COUNT, &[]).await.expect("read");
    assert_eq!(read.get::<_, i64>(0), 2);
    let read = db.query_one(Some(token), &COUNT, &[]).await.expect("read in company");
    assert_eq!(read.get::<_, i64>(0), 2);

    let table: Bulk<Note> = Bulk::open(db, &TableName::new("note")).await.expect("it fits");
    let options = BulkOptions {
        method: Method::Copy,
        bad_rows: BadRows::Report,
        chunk_timeout: 2 * LIMIT,
        ..BulkOptions::default()
    };
    // More than fits into one record of TLS.
    let rows = (10..1_010).map(|id| Note { id, body: "copied".repeat(100) });
    let report = table.insert_many(rows, &options).await.expect("load");
    assert_eq!(report.affected, 1_000);
    let read = table.copy_out(Some("id >= 10"), report.token, &options).await.expect("read");
    let read: Vec<Note> = read.try_collect().await.expect("rows");
    assert_eq!(read.len(), 1_000);
    assert!(read.iter().all(|note| note.body == "copied".repeat(100)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_done_is_over_tls_and_so_are_cancels() {
    let authority = Authority::new("authority");
    authority.issue("server", SOUND);
    let server = Secured::start(&authority, "server");
    let front = Front::before(server.port).await;
    let words = format!("{}&options=-c%20client_connection_check_interval%3D0", checked(&authority));
    let mut config = config(&url_at(front.port(), "postgres", &words));
    config.statement_timeout = 2 * LIMIT;
    let db = Db::connect(config).await.expect("connect");
    Box::pin(use_all_of(&db)).await;
    let watcher = db.session("watcher").await.expect("session");
    nobody_speaks_plainly(watcher.client()).await;

    let before = front.begun().len();
    let mut is_cleaned = false;
    // A cancel that took too long has ended its statement too, and cost the connection.
    for _ in 0..3 {
        drop_asleep(&db, watcher.client()).await;
        is_cleaned |= db.status_when(LIMIT / 3, |status| status.cleaned > 0).await.is_ok();
        if is_cleaned {
            break;
        }
    }
    assert!(is_cleaned, "no cancel was known to be delivered");
    let begun = front.begun();
    assert!(begun.len() > before, "no cancel came this way");
    assert!(begun.iter().all(|first| *first == QUESTION), "{begun:?}");
    db.close().await;
    let refused = refusal(&server.url("postgres", "sslmode=disable")).await;
    assert!(refused.contains("pg_hba.conf"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_is_bound_to_the_session_whatever_digest_its_certificate_was_signed_by() {
    let (elliptic, rsa) = (Authority::new("elliptic"), Authority::with_key("rsa", RSA_KEY));
    let signed = [(&elliptic, "sha256"), (&elliptic, "sha384"), (&rsa, "sha256"), (&rsa, "sha512")];
    for (authority, digest) in signed {
        authority.issue(digest, Holds { digest, ..SOUND });
    }
    let server = Secured::start(&elliptic, "sha256");
    let admin = Db::connect(config(&server.url("postgres", &checked(&elliptic)))).await.expect("connect");
    let session = admin.session("admin").await.expect("session");
    let role = "CREATE ROLE pay LOGIN PASSWORD 's3cret' IN ROLE pg_monitor";
    session.client().batch_execute(role).await.expect("make a role");
    admin.close().await;
    drop(session);
    for (authority, digest) in signed {
        server.restart_with(authority, digest);
        let words = format!("{}&channel_binding=require", checked(authority));
        let db = Db::connect(config(&server.url("pay:s3cret", &words))).await;
        let db = db.unwrap_or_else(|error| panic!("{digest}: {error}"));
        db.write().await.expect("connection").query_one(&ONE, &[]).await.expect("ask");
        db.close().await;
        let refused = refusal(&server.url("pay:wrong", &words)).await;
        assert!(refused.contains("password authentication failed"), "{digest}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_is_not_trusted_is_told_as_that_and_lets_nobody_in() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    authority.issue("server", SOUND);
    authority.issue("expired", Holds { until: "20200102000000Z", ..SOUND });
    authority.issue("misplaced", Holds { place: "elsewhere", ..SOUND });
    let server = Secured::start(&authority, "server");
    for mode in ["require", "verify-full"] {
        for (believed, certificate, cause) in [
            (&stranger, "server", "its certificate is by no authority that is trusted"),
            (&authority, "expired", "its certificate has expired"),
            (&authority, "misplaced", "its certificate is for another name"),
        ] {
            server.restart_with(&authority, certificate);
            let words = format!("sslmode={mode}&sslrootcert={}", believed.path("authority.pem"));
            let refused = refusal(&server.url("postgres", &words)).await;
            assert!(refused.contains(&format!("is not trusted: {cause}")), "{mode}: {refused}");
        }
    }
    server.stop();
    let log = server.log();
    assert!(log.contains("connection received") && !log.contains("connection authorized"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authority_alone_is_checked_where_no_more_is_asked_for() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    authority.issue("misplaced", Holds { place: "elsewhere", ..SOUND });
    authority.issue("expired", Holds { place: "elsewhere", until: "20200102000000Z", ..SOUND });
    let server = Secured::start(&authority, "misplaced");
    let believing =
        |believed: &Authority| format!("sslmode=verify-ca&sslrootcert={}", believed.path("authority.pem"));
    let db = Db::connect(config(&server.url("postgres", &believing(&authority)))).await.expect("connect");
    let session = db.session("watcher").await.expect("session");
    nobody_speaks_plainly(session.client()).await;
    db.close().await;
    drop(session);
    let refused = refusal(&server.url("postgres", &believing(&stranger))).await;
    assert!(refused.contains("by no authority that is trusted"), "{refused}");
    server.restart_with(&authority, "expired");
    let refused = refusal(&server.url("postgres", &believing(&authority))).await;
    assert!(refused.contains("has expired"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_whose_certificate_goes_bad_is_down_until_it_has_another() {
    let authority = Authority::new("authority");
    authority.issue("server", SOUND);
    authority.issue("expired", Holds { until: "20200102000000Z", ..SOUND });
    let server = Secured::start(&authority, "server");
    let db = Db::connect(config(&server.url("postgres", &checked(&authority)))).await.expect("connect");
    server.restart_with(&authority, "expired");
    let cause = "is not trusted: its certificate has expired";
    let status =
        until(&db, |status| status.nodes[0].last_error.as_deref().is_some_and(|error| error.contains(cause)));
    assert_eq!(status.await.primary, None);
    server.restart_with(&authority, "server");
    until(&db, |status| status.primary.is_some()).await;
    db.write().await.expect("connection").query_one(&ONE, &[]).await.expect("ask");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_tls_is_sent_the_question_and_nothing_else() {
    let authority = Authority::new("authority");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let heard_by_task = Arc::clone(&heard);
    let answering = tokio::spawn(async move {
        // One after the other: only a monitor asks while it has found nothing. One that is stopped may leave at any word.
        while let Ok((mut client, _)) = listener.accept().await {
            let mut said = Vec::new();
            let _asked = (&mut client).take(QUESTION.len() as u64).read_to_end(&mut said).await;
            let _answered = client.write_all(b"N").await;
            let _ended = client.read_to_end(&mut said).await;
            heard_by_task.lock().expect("nobody panics here").push(said);
        }
    });
    let _answering = AbortOnDropHandle::new(answering);
    for mode in ["require", "verify-ca", "verify-full"] {
        let words = format!("sslmode={mode}&sslrootcert={}", authority.path("authority.pem"));
        let refused = refusal(&url_at(port, "pay:s3cret", &words)).await;
        assert!(refused.contains("is not trusted: it speaks no TLS"), "{refused}");
    }
    let heard_so_far = || heard.lock().expect("nobody panics here").clone();
    let all_heard = async {
        while heard_so_far().iter().filter(|said| **said == QUESTION).count() < 3 {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, all_heard).await.is_ok(), "{:?}", heard_so_far());
    assert!(heard_so_far().iter().all(|said| QUESTION.starts_with(said)), "{:?}", heard_so_far());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_asks_who_is_there_takes_who_has_a_certificate() {
    let authority = Authority::new("authority");
    for name in ["server", "known", "other"] {
        authority.issue(name, SOUND);
    }
    let server = Secured::start(&authority, "server");
    let admin = Db::connect(config(&server.url("postgres", &checked(&authority)))).await.expect("connect");
    let session = admin.session("admin").await.expect("session");
    let role = "CREATE ROLE known LOGIN IN ROLE pg_monitor";
    session.client().batch_execute(role).await.expect("make a role");
    let shown = |name: &str| {
        let (certificate, key) =
            (authority.path(&format!("{name}.pem")), authority.path(&format!("{name}.key")));
        format!("{}&sslcert={certificate}&sslkey={key}", checked(&authority))
    };
    let refused = refusal(&server.url("known", &checked(&authority))).await;
    assert!(refused.contains("certificate"), "{refused}");
    let refused = refusal(&server.url("known", &shown("other"))).await;
    assert!(refused.contains("certificate authentication failed"), "{refused}");
    let db = Db::connect(config(&server.url("known", &shown("known")))).await.expect("connect");
    let session = db.session("watcher").await.expect("session");
    let with_it = format!("{OURS} AND usename = 'known' AND client_dn = '/CN=known'");
    assert!(asked(session.client(), &with_it).await >= 3);
}

/// Waits for nothing shorter than a test may take.
fn patient(url: &str) -> Config {
    let mut config = config(url);
    (config.acquire_timeout, config.connect_timeout) = (20 * LIMIT, 20 * LIMIT);
    config
}

/// With TLS 1.3 a client has ended its handshake, and has begun to log in, before it hears that its certificate is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_whose_certificate_is_refused_or_missing_is_told_so_before_any_wait_is_over() {
    const REFUSED: &str = "it refuses the certificate of the client";
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    authority.issue("server", SOUND);
    for issuer in [&authority, &stranger] {
        issuer.issue("certified", SOUND);
    }
    let server = Secured::start(&authority, "server");
    let admin = Db::connect(config(&server.url("postgres", &checked(&authority)))).await.expect("connect");
    let session = admin.session("admin").await.expect("session");
    let role = "CREATE ROLE certified LOGIN IN ROLE pg_monitor";
    session.client().batch_execute(role).await.expect("make a role");
    let shown = |issuer: &Authority| {
        let (certificate, key) = (issuer.path("certified.pem"), issuer.path("certified.key"));
        format!("{}&sslcert={certificate}&sslkey={key}", checked(&authority))
    };
    let missing = "connection requires a valid client certificate";
    for (words, cause) in [(shown(&stranger), REFUSED), (checked(&authority), missing)] {
        let told = tokio::time::timeout(LIMIT, Db::connect(patient(&server.url("certified", &words)))).await;
        let refused = told.expect("told at once").expect_err("it was let in").to_string();
        assert!(refused.contains(cause), "{refused}");
    }

    let db = Db::connect(patient(&server.url("certified", &shown(&authority)))).await.expect("connect");
    server.trust_clients_of(&stranger);
    // It hears of that by a signal, and until then lets everybody in as before.
    let dialled = async {
        loop {
            if let Err(error) = db.session("late").await {
                return error;
            }
        }
    };
    let by_session = tokio::time::timeout(LIMIT, dialled).await.expect("told at once");
    let mut kept = Vec::new();
    let borrowed = async {
        loop {
            match db.write().await {
                Ok(connection) => kept.push(connection),
                Err(error) => return error,
            }
        }
    };
    let by_pool = tokio::time::timeout(LIMIT, borrowed).await.expect("told at once");
    for error in [by_session, by_pool] {
        assert!(matches!(&error, Error::Untrusted { cause, .. } if *cause == REFUSED), "{error:?}");
        assert_eq!(error.class(), Class::NotSent);
    }
    // What was open before goes on.
    kept[0].query_one(&ONE, &[]).await.expect("ask");
}

#[test]
fn key_of_another_certificate_is_refused_by_its_parameter() {
    let authority = Authority::new("authority");
    for name in ["known", "other"] {
        authority.issue(name, SOUND);
    }
    let words = format!(
        "{}&sslcert={}&sslkey={}",
        checked(&authority),
        authority.path("known.pem"),
        authority.path("other.key")
    );
    let refused =
        url_at(5432, "known", &words).parse::<paystrata_db::ConnectionUrl>().expect_err("another key");
    assert_eq!(refused.parameter(), Some("sslkey"), "{refused}");
}

/// Where the system's certificates are belongs to a process: the test runs itself again, with what it finds in this place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_that_the_system_trusts_are_trusted_where_no_others_are_named() {
    const SERVER: &str = "PAYSTRATA_TEST_TLS_SERVER";
    if let Ok(port) = std::env::var(SERVER) {
        let port = port.parse().expect("a port");
        for words in ["sslmode=verify-full", "sslmode=require&sslrootcert=system"] {
            let db = Db::connect(config(&url_at(port, "postgres", words))).await.expect("connect");
            db.close().await;
        }
        return;
    }
    let authority = Authority::new("authority");
    authority.issue("server", SOUND);
    let server = Secured::start(&authority, "server");
    let again = tokio::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "tls::authorities_that_the_system_trusts_are_trusted_where_no_others_are_named"])
        .env(SERVER, server.port.to_string())
        .env("SSL_CERT_FILE", authority.path("authority.pem"))
        .env_remove("SSL_CERT_DIR")
        .output()
        .await
        .expect("it runs");
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && told.contains("1 passed"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooler_that_takes_nothing_but_tls_is_used_and_passes_cancels_on() {
    let authority = Authority::new("authority");
    authority.issue("server", SOUND);
    let server = Secured::start(&authority, "server");
    let settings = format!(
        "client_tls_sslmode = require\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n\
         server_tls_sslmode = verify-ca\nserver_tls_ca_file = {}",
        server.path("server.pem"),
        server.path("server.key"),
        server.path("authority.pem")
    );
    let bare = format!("postgres://postgres@127.0.0.1:{}/postgres", server.port);
    let bouncer = Bouncer::start(&bare, "transaction", &settings);
    let mut config = config(&server.url("postgres", &checked(&authority)));
    config.pooler_url = Some(url(&format!("{}?{}", bouncer.through(&bare), checked(&authority))));
    config.statement_timeout = 2 * LIMIT;
    let db = Db::connect(config).await.expect("connect through the pooler");
    let seen = db.pooler().await.expect("its console answers").expect("there is one");
    assert!(seen.version.starts_with("PgBouncer 1."), "{seen:?}");
    let session = db.session("migrate").await.expect("session");
    assert_eq!(MIGRATOR.up(&session).await.expect("up").len(), 1);
    let added = db.transaction(
        TransactionOptions { timeout: LIMIT, ..TransactionOptions::default() },
        |tx| async move { tx.execute(&ADD, &[&1_i64]).await },
    );
    let token = added.await.map_err(|error| error.to_string()).expect("a transaction").token;
    let read = db.read_after(token).await.expect("connection").query_one(&COUNT, &[]).await.expect("read");
    assert_eq!(read.get::<_, i64>(0), 1);
    nobody_speaks_plainly(session.client()).await;
    drop_asleep(&db, session.client()).await;
}
