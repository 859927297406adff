//! A primary and two replicas: who answers reads while one of them is promoted, stands still or falls behind, and what a primary gets
//! that was replaced and returns. What becomes of writes meanwhile is looked at in `failover` and `switchovers`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use paystrata_db::{
    Config, Connection, Db, Error, NodeId, NodeState, Role, Statement, Status, Token, TransactionOptions,
    Type,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::failover::on_two_replicas;
use crate::support::{LIMIT, connected, plain, until, until_count};

/// Their places in a status, and their names.
const PRIMARY: usize = 0;
const FIRST: usize = 1;
const SECOND: usize = 2;
const NAMES: [&str; 3] = ["primary", "replica", "second"];

static INSERT: Statement = Statement::new("INSERT INTO note VALUES ($1)", &[Type::INT8]);
static NEWEST: Statement = Statement::new("SELECT coalesce(max(body), 0), inet_server_port() FROM note", &[]);
/// Far longer than the machine takes for anything else of a read, so that how busy it is decides nothing.
static NAP: Statement = Statement::new("SELECT 1 FROM pg_sleep(0.5)", &[]);

/// How a read is asked for.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Over a connection that it shares with others.
    Shared,
    /// Run once more on another server if need be.
    Rerun,
    /// On a connection of its own, and nowhere else.
    Bound,
}

const WAYS: [Way; 3] = [Way::Shared, Way::Rerun, Way::Bound];

/// What a read is to see.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// The newest note that was acknowledged before it.
    Newest,
    /// No note in particular.
    Any,
}

/// A note whose commit was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Note {
    body: i64,
    token: Token,
}

/// What a read was told, and by whom.
#[derive(Clone, Copy, Debug)]
struct Answer {
    newest: i64,
    server: usize,
}

/// A writer and readers, who go on whatever becomes of the servers.
#[derive(Debug)]
struct Scene {
    db: Db,
    ports: [i32; 3],
    newest: watch::Sender<Note>,
    is_over: AtomicBool,
    /// What readers got instead of an answer.
    refusals: Mutex<Vec<String>>,
}

/// The token of a new note, if its commit was acknowledged.
async fn insert(db: &Db, body: i64) -> Option<Token> {
    let options =
        TransactionOptions { timeout: 2 * LIMIT, attempts_max: 10_000, ..TransactionOptions::default() };
    match db.transaction(options, |tx| async move { tx.execute(&INSERT, &[&body]).await }).await {
        Ok(committed) => Some(committed.token),
        Err(error) if error.outcome_is_unknown() => None,
        Err(error) => panic!("{body}: {error}"),
    }
}

/// Whether that server was seen to have replayed the note, on the timeline that it was written on.
fn has(server: usize, note: Note) -> impl Fn(&Status) -> bool {
    move |status| {
        let node = &status.nodes[server];
        node.timeline == Some(note.token.timeline) && node.lsn.is_some_and(|lsn| lsn >= note.token.lsn)
    }
}

impl Scene {
    /// With a first note, which all servers have.
    async fn open(cluster: &Cluster, config: Config) -> Self {
        let db = connected(config).await;
        let token = insert(&db, 1).await.expect("nothing is wrong yet");
        let first = Note { body: 1, token };
        until(&db, |status| has(FIRST, first)(status) && has(SECOND, first)(status)).await;
        Self {
            db,
            ports: NAMES.map(|name| i32::from(cluster.port(name))),
            newest: watch::Sender::new(first),
            is_over: AtomicBool::new(false),
            refusals: Mutex::default(),
        }
    }

    /// Writes and reads, each of `ways` with a token and without, for as long as `act` takes.
    async fn play<T>(&self, ways: &[Way], act: impl Future<Output = T>) -> T {
        let readers = ways.iter().flat_map(|way| [Wanted::Newest, Wanted::Any].map(|wanted| (*way, wanted)));
        let readers = join_all(readers.map(|(way, wanted)| self.read(way, wanted)));
        let act = async {
            let outcome = act.await;
            self.is_over.store(true, Ordering::Release);
            outcome
        };
        let all = Box::pin(async { tokio::join!(readers, self.write(), act) });
        let (answers, (), outcome) = timeout(5 * LIMIT, all).await.expect("reads and writes go on");
        assert!(answers.iter().all(|answers| *answers > 0), "{answers:?}");
        outcome
    }

    /// A note after the other.
    async fn write(&self) {
        let first = self.newest_note().body + 1;
        for body in first.. {
            if let Some(token) = insert(&self.db, body).await {
                self.newest.send_replace(Note { body, token });
            }
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            // More would only take the processor from those who are looked at.
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Each read ends: with all that its token stands for, or with an error after which it may be tried again. Gives the answers.
    async fn read(&self, way: Way, wanted: Wanted) -> u64 {
        let mut answers = 0;
        while !self.is_over.load(Ordering::Acquire) {
            let note = self.newest_note();
            let (after, least) = match wanted {
                Wanted::Newest => (Some(note), note.body),
                Wanted::Any => (None, 1),
            };
            let ended = timeout(2 * LIMIT, Box::pin(self.ask(way, after))).await;
            match ended.unwrap_or_else(|_| panic!("a read hangs: {way:?}, {wanted:?}")) {
                Ok(answer) => {
                    assert!(answer.newest >= least, "{way:?}: {answer:?} after {note:?}");
                    answers += 1;
                }
                Err(error) => {
                    let told = format!("{way:?}, {wanted:?}: {error:?}");
                    // Of the last writes before a failover nobody can tell by their tokens that they are there.
                    let is_of_the_last = matches!(error, Error::WriteLost { .. });
                    assert!(is_of_the_last || error.class().is_read_retryable(), "{told}");
                    self.refusals.lock().expect("no reader panicked").push(told);
                }
            }
            // One that is answered at once must not keep the others from their turn.
            sleep(Duration::from_millis(2)).await;
        }
        answers
    }

    async fn ask(&self, way: Way, after: Option<Note>) -> Result<Answer, Error> {
        let after = after.map(|note| note.token);
        let row = match way {
            Way::Shared => self.db.query_one(after, &NEWEST, &[]).await?,
            Way::Rerun => {
                let look =
                    |connection: Arc<Connection>| async move { connection.query_one(&NEWEST, &[]).await };
                self.db.read_with(after, look).await?
            }
            Way::Bound => {
                let connection = match after {
                    Some(token) => self.db.read_after(token).await?,
                    None => self.db.read().await?,
                };
                connection.query_one(&NEWEST, &[]).await?
            }
        };
        let port: i32 = row.get(1);
        let server = self.ports.iter().position(|known| *known == port).expect("one of the three");
        Ok(Answer { newest: row.get(0), server })
    }

    /// Who answers twenty reads of each way, after a note, which all of them must see, or after none.
    async fn servers(&self, after: Option<Note>) -> Vec<usize> {
        let mut servers = Vec::new();
        for way in [WAYS; 20].as_flattened() {
            let answer = Box::pin(self.ask(*way, after)).await.expect("read");
            assert!(after.is_none_or(|note| answer.newest >= note.body), "{way:?}: {answer:?}, {after:?}");
            servers.push(answer.server);
        }
        servers
    }

    /// The first replica answers, and the second one nobody.
    async fn spares_the_second(&self, after: Option<Note>) {
        let servers = self.servers(after).await;
        assert!(servers.contains(&FIRST) && !servers.contains(&SECOND), "{after:?}: {servers:?}");
    }

    /// Many ask at once until the second replica is among those who answer.
    async fn until_the_second_answers(&self, after: Option<Note>) {
        let answered = async {
            loop {
                let answers = join_all((0..8).map(|_| self.ask(Way::Rerun, after))).await;
                if answers.iter().flatten().any(|answer| answer.server == SECOND) {
                    return;
                }
            }
        };
        timeout(2 * LIMIT, answered)
            .await
            .unwrap_or_else(|_| panic!("it never does: {:?}", self.db.status()));
    }

    fn newest_note(&self) -> Note {
        *self.newest.borrow()
    }

    /// A note that nobody had begun to write before.
    async fn next_note(&self) -> Note {
        let mut newest = self.newest.subscribe();
        let under_way = newest.borrow().body + 1;
        let next = timeout(2 * LIMIT, newest.wait_for(|note| note.body > under_way)).await;
        next.expect("somebody writes").map(|note| *note).expect("the scene lasts")
    }

    fn refusals(&self) -> Vec<String> {
        self.refusals.lock().expect("no reader panicked").clone()
    }
}

/// For so long a server that comes up is spared, and this part of a full share it has at first: as the routing has it.
const RAMP: Duration = Duration::from_secs(30);
const RAMP_SHARE_MIN: f64 = 0.1;
const READERS: u32 = 24;

/// Of so many reads of each of the readers, who all ask at once, the part that `node` serves, in percent.
async fn share(db: &Db, node: &NodeId, reads: u32) -> f64 {
    let read = async || {
        let mut served = 0;
        for _ in 0..reads {
            let connection = db.read().await.expect("read");
            connection.query_one(&NAP, &[]).await.expect("query");
            served += u32::from(connection.node() == node);
        }
        served
    };
    let served: u32 = join_all((0..READERS).map(|_| read())).await.into_iter().sum();
    f64::from(served) * 100.0 / f64::from(READERS * reads)
}

/// Scenario 16 of the reference.
#[test]
fn a_primary_that_returns_as_a_standby_takes_its_new_role_and_gets_its_reads_by_and_by() {
    on_two_replicas(|cluster, mut config| async move {
        config.pool_size_max = usize::try_from(READERS).expect("a few");
        let scene = Scene::open(&cluster, config).await;
        let (db, up) = (&scene.db, Instant::now());
        // In order, so that the old primary is ahead of nobody.
        cluster.stop("primary");
        cluster.promote("replica");
        cluster.follow("second", "replica").await;
        let is_followed = |status: &Status| {
            let [first, second] = [FIRST, SECOND].map(|place| &status.nodes[place]);
            status.primary.as_ref() == Some(&first.id) && second.timeline == first.timeline
        };
        let status = until(db, is_followed).await;
        let [returned, other] = [PRIMARY, SECOND].map(|place| status.nodes[place].id.clone());
        // Until the other replica has its full share.
        while up.elapsed() < RAMP {
            share(db, &other, 1).await;
        }

        let up = Instant::now();
        cluster.boot_behind("primary", "replica");
        let token = insert(db, 2).await.expect("it is the primary's to say");
        let status = until(db, has(PRIMARY, Note { body: 2, token })).await;
        assert_eq!(status.nodes[PRIMARY].role, Some(Role::Replica));
        assert_eq!(status.primary.as_ref(), Some(&status.nodes[FIRST].id));
        // Before it has answered anything nobody knows its price, and its youth is a part of that.
        let found_out = async { while share(db, &returned, 1).await < 1.0 {} };
        timeout(LIMIT, found_out).await.expect("it is asked");

        let young = share(db, &returned, 4).await;
        let grown = (up.elapsed().as_secs_f64() / RAMP.as_secs_f64()).clamp(RAMP_SHARE_MIN, 1.0);
        let due = 100.0 * grown / (grown + 1.0);
        assert!(young < 2.0 * due, "{young:.0} % of the reads, of which {due:.0} % are its part");
        let half_grown = async { while share(db, &returned, 1).await < 30.0 {} };
        timeout(2 * LIMIT, half_grown).await.expect("it is asked more");
    });
}

#[test]
fn reads_go_on_while_the_primary_dies_and_none_is_older_than_its_token() {
    on_two_replicas(|cluster, mut config| async move {
        config.pool_size_max = 12;
        // Only so is what was acknowledged on both replicas, whichever of them is promoted.
        cluster.set("primary", "synchronous_standby_names", "2 (*)").await;
        let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        until_count(&plain(&cluster.url("primary")).await, synchronous, 2).await;
        let scene = Scene::open(&cluster, config).await;
        let failover = async {
            let before = scene.next_note().await;
            // What both replicas have of the next one lies behind the whole of its token.
            scene.next_note().await;
            let same = Arc::clone(&cluster);
            let strike = move || {
                same.kill("primary");
                same.promote("replica");
            };
            tokio::task::spawn_blocking(strike).await.expect("strike");
            until(&scene.db, |status| status.primary.as_ref() == Some(&status.nodes[FIRST].id)).await;
            // The second replica is left on the old timeline, whose tokens it may answer as before.
            scene.servers(Some(before)).await;
            cluster.follow("second", "replica").await;
            until(&scene.db, |status| status.nodes[SECOND].timeline > Some(before.token.timeline)).await;
            let after = scene.next_note().await;
            assert!(after.token.timeline > before.token.timeline, "{after:?}");
            scene.until_the_second_answers(Some(after)).await;
            [before, after]
        };
        let notes = scene.play(&WAYS, Box::pin(failover)).await;

        // It comes back and still believes itself the primary.
        cluster.boot("primary");
        let status = until(&scene.db, |status| status.nodes[PRIMARY].state == NodeState::Up).await;
        assert_eq!(status.nodes[PRIMARY].role, Some(Role::Primary));
        assert_eq!(status.primary.as_ref(), Some(&status.nodes[FIRST].id));
        let body = scene.newest_note().body + 2;
        let token = insert(&scene.db, body).await.expect("the new primary takes it");
        assert!(token > notes[1].token, "{token}");
        let [before, after] = notes.map(Some);
        for asked in [before, after, Some(Note { body, token }), None] {
            let servers = scene.servers(asked).await;
            assert!(!servers.contains(&PRIMARY), "{asked:?}: {servers:?}");
        }
    });
}

#[test]
fn a_replica_that_stood_still_answers_again_when_it_has_caught_up_and_not_before() {
    on_two_replicas(|cluster, mut config| async move {
        config.pool_size_max = 12;
        config.replica_lag_max = Duration::from_secs(1);
        // So that it is not the limit of a statement that helps a read away from a server that says nothing.
        config.statement_timeout = 5 * LIMIT;
        let lag_max = config.replica_lag_max;
        let scene = Scene::open(&cluster, config).await;
        let stand_still = async {
            scene.until_the_second_answers(None).await;
            // It will answer again before it has caught up.
            cluster.pause_replay("second").await;
            cluster.halt("second");
            until(&scene.db, |status| status.nodes[SECOND].state == NodeState::Down).await;
            let missed = scene.next_note().await;
            until(&scene.db, has(FIRST, missed)).await;
            scene.spares_the_second(None).await;
            scene.spares_the_second(Some(missed)).await;

            cluster.go_on("second");
            until(&scene.db, |status| status.nodes[SECOND].lag.is_some_and(|lag| lag > lag_max)).await;
            scene.spares_the_second(None).await;
            scene.spares_the_second(Some(missed)).await;

            cluster.run_on("second", "SELECT pg_wal_replay_resume()").await;
            scene.until_the_second_answers(None).await;
            scene.until_the_second_answers(Some(missed)).await;
        };
        // A read that is bound to its connection waits with it.
        scene.play(&[Way::Shared, Way::Rerun], Box::pin(stand_still)).await;
        assert_eq!(scene.refusals(), Vec::<String>::new(), "the others were well");
    });
}

#[test]
fn a_replica_that_replays_late_answers_neither_tokens_nor_others_until_it_has_made_up_half() {
    on_two_replicas(|cluster, mut config| async move {
        config.pool_size_max = 12;
        let lag_max = Duration::from_secs(10);
        config.replica_lag_max = lag_max;
        let scene = Scene::open(&cluster, config).await;
        let lag_is = |is_wanted: fn(Duration, Duration) -> bool| {
            until(&scene.db, move |status| {
                status.nodes[SECOND].lag.is_some_and(|lag| is_wanted(lag, lag_max))
            })
        };
        let replay_late = async {
            cluster.pause_replay("second").await;
            let missed = scene.next_note().await;
            until(&scene.db, has(FIRST, missed)).await;
            scene.spares_the_second(Some(missed)).await;
            lag_is(|lag, lag_max| lag > lag_max).await;
            scene.spares_the_second(None).await;

            // From now on it is three quarters of the limit behind, which is not enough to come back.
            cluster.set("second", "recovery_min_apply_delay", "7500ms").await;
            cluster.run_on("second", "SELECT pg_wal_replay_resume()").await;
            lag_is(|lag, lag_max| lag < lag_max && lag > lag_max / 2).await;
            scene.spares_the_second(None).await;
            scene.spares_the_second(Some(scene.newest_note())).await;

            cluster.set("second", "recovery_min_apply_delay", "0").await;
            scene.until_the_second_answers(None).await;
            scene.until_the_second_answers(Some(missed)).await;
        };
        scene.play(&WAYS, Box::pin(replay_late)).await;
        assert_eq!(scene.refusals(), Vec::<String>::new(), "the others were well");
    });
}
