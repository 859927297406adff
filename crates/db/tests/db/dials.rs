//! Connections that are made for a pool, at a door that counts them: so many at once and no more, however many want one; who gives
//! up makes room; and while one is made for another that is near its end, nobody waits for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use paystrata_db::Db;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{LIMIT, ONE, config, until, with_database};

/// As the page on limits says.
const DIALS_MAX: usize = 4;
const SIZE: usize = 20;
/// What the first packet of a pooled connection says, and that of a monitor does not.
const POOLED: &[u8] = b"application_name\0paystrata-db\0";
/// With which a login ends.
const READY: &[u8] = b"Z\0\0\0\x05I";
/// More than anybody dials here.
const OPEN: usize = 1_000_000;

/// Connections being made for the pool. For the door one is, from its first packet until the end of its login is passed on; for
/// whoever makes it, for longer. So there are as many as the door counts, or more.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    dialling: usize,
    most: usize,
}

/// Stands before a server. While it is shut, connections for the pool are taken and hear nothing.
#[derive(Debug)]
struct Door {
    address: SocketAddr,
    seen: Arc<watch::Sender<Seen>>,
    /// One for each that may pass.
    keys: Arc<Semaphore>,
    _accepting: AbortOnDropHandle<()>,
}

struct Dial<'a>(&'a watch::Sender<Seen>);

impl Door {
    async fn before(url: &str) -> Self {
        let server = endpoint(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (seen, keys) = (Arc::new(watch::Sender::default()), Arc::new(Semaphore::new(OPEN)));
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&seen), Arc::clone(&keys)));
        Self { address, seen, keys, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// `url` with the door in place of the server.
    fn url(&self, url: &str) -> String {
        url.replace(endpoint(url), &self.address.to_string())
    }

    fn shut(&self) {
        while self.keys.forget_permits(OPEN) > 0 {}
    }

    fn open(&self) {
        self.keys.add_permits(OPEN);
    }

    async fn until(&self, wanted: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        let found = timeout(LIMIT, seen.wait_for(wanted)).await.map(drop);
        assert!(found.is_ok(), "it never came: {:?}", *self.seen.borrow());
    }

    fn most(&self) -> usize {
        self.seen.borrow().most
    }
}

impl<'a> Dial<'a> {
    fn begin(seen: &'a watch::Sender<Seen>) -> Self {
        seen.send_modify(|seen| {
            seen.dialling += 1;
            seen.most = seen.most.max(seen.dialling);
        });
        Self(seen)
    }
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|seen| seen.dialling -= 1);
    }
}

fn endpoint(url: &str) -> &str {
    let after_user = url.split_once('@').expect("a URL with a user").1;
    after_user.split_once('/').expect("a URL with a database").0
}

async fn accept(listener: TcpListener, server: String, seen: Arc<watch::Sender<Seen>>, keys: Arc<Semaphore>) {
    // Dropped with this task, and the relays with it.
    let mut relays = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let (server, seen, keys) = (server.clone(), Arc::clone(&seen), Arc::clone(&keys));
        relays.spawn(async move {
            // Its end closes both sockets, which is all there is to tell.
            let _ended = relay(client, &server, &seen, &keys).await;
        });
    }
}

async fn relay(
    mut client: TcpStream,
    server: &str,
    seen: &watch::Sender<Seen>,
    keys: &Semaphore,
) -> std::io::Result<()> {
    let length = client.read_u32().await?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.resize(usize::try_from(length).expect("a packet fits into memory"), 0);
    client.read_exact(&mut packet[4..]).await?;
    let mut server = TcpStream::connect(server).await?;
    if packet.windows(POOLED.len()).any(|window| window == POOLED) {
        let dial = Dial::begin(seen);
        tokio::select! {
            key = keys.acquire() => key.expect("it is never closed").forget(),
            // It says nothing before it is answered: it has given up.
            _ = client.read_u8() => return Ok(()),
        }
        server.write_all(&packet).await?;
        log_in(&mut client, &mut server, dial).await?;
    } else {
        server.write_all(&packet).await?;
    }
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Passes on what is said until the server is ready.
async fn log_in(client: &mut TcpStream, server: &mut TcpStream, dial: Dial<'_>) -> std::io::Result<()> {
    let (mut from_client, mut from_server) = (vec![0; 4 * 1024], vec![0; 4 * 1024]);
    let mut answer = Vec::new();
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => match read? {
                0 => return Ok(()),
                length => server.write_all(&from_client[..length]).await?,
            },
            read = server.read(&mut from_server) => {
                let said = &from_server[..read?];
                answer.extend_from_slice(said);
                if said.is_empty() {
                    return Ok(());
                }
                if answer.ends_with(READY) {
                    // Before anybody can hear that it is over.
                    drop(dial);
                    return client.write_all(said).await;
                }
                client.write_all(said).await?;
            }
        }
    }
}

/// A statement on a connection, once there is one: a server that a busy machine has made answer its monitor late is waited for.
async fn serve(db: &Db) {
    loop {
        match db.write().await {
            Err(error) if error.is_not_sent() => yield_now().await,
            taken => {
                let connection = taken.expect("a connection");
                connection.query_one(&ONE, &[]).await.expect("an answer");
                return;
            }
        }
    }
}

fn hundred_callers(db: &Db) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let db = db.clone();
        callers.spawn(async move { serve(&db).await });
    }
    callers
}

/// Scenario 11 of the reference.
#[test]
fn a_hundred_callers_have_no_more_than_four_connections_made_at_once() {
    with_database(|bed| async move {
        let door = Door::before(&bed.primary_url()).await;
        let mut config = config(&door.url(&bed.primary_url()));
        config.pool_size_max = SIZE;
        let db = Db::connect(config).await.expect("connect");
        // Nobody is served by the first one: all others have to be made.
        let first = db.write().await.expect("it is there");
        door.shut();
        let mut callers = hundred_callers(&db);
        door.until(|seen| seen.dialling >= DIALS_MAX).await;
        // Through the same door, which would let a fifth in meanwhile.
        for _ in 0..100 {
            first.query_one(&ONE, &[]).await.expect("an answer");
        }
        assert_eq!(door.most(), DIALS_MAX);
        assert_eq!(callers.try_join_next().map(drop), None, "nobody is served yet");
        door.open();
        let served = async { while callers.join_next().await.is_some_and(|served| served.is_ok()) {} };
        timeout(LIMIT, served).await.expect("everybody gets a turn");
        assert!(callers.is_empty(), "none of them panics");
        assert_eq!(door.most(), DIALS_MAX);
    });
}

#[test]
fn callers_who_give_up_while_connections_are_made_leave_room_for_others() {
    with_database(|bed| async move {
        let door = Door::before(&bed.primary_url()).await;
        let mut config = config(&door.url(&bed.primary_url()));
        config.pool_size_max = SIZE;
        let db = Db::connect(config).await.expect("connect");
        let first = db.write().await.expect("it is there");
        door.shut();
        let mut callers = hundred_callers(&db);
        door.until(|seen| seen.dialling >= DIALS_MAX).await;
        callers.shutdown().await;
        door.until(|seen| seen.dialling == 0).await;
        drop(first);
        door.open();
        let all = Box::pin(join_all((0..SIZE).map(|_| serve(&db))));
        timeout(LIMIT, all).await.expect("every place is free");
        until(&db, |status| status.nodes[0].pool.in_use == 0).await;
        assert_eq!(door.most(), DIALS_MAX);
    });
}

/// Scenario 11 of the reference.
#[test]
fn while_a_connection_is_made_for_one_near_its_end_all_others_are_there_and_nobody_waits() {
    with_database(|bed| async move {
        let door = Door::before(&bed.primary_url()).await;
        let mut config = config(&door.url(&bed.primary_url()));
        (config.pool_size_min, config.pool_size_max) = (SIZE, SIZE);
        config.connection_lifetime_max = Duration::from_secs(5);
        let db = Db::connect(config).await.expect("connect");
        let (served, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let borrowers = (0..4).map(|_| async {
            while !is_over.load(Ordering::Acquire) {
                serve(&db).await;
                served.fetch_add(1, Ordering::AcqRel);
            }
        });
        let looking = async {
            loop {
                door.shut();
                door.until(|seen| seen.dialling > 0).await;
                let enough = served.load(Ordering::Acquire) + 20;
                let go_on = async {
                    while served.load(Ordering::Acquire) < enough {
                        yield_now().await;
                    }
                };
                let is_unhindered = tokio::select! {
                    () = go_on => db.status().nodes[0].pool.size >= SIZE,
                    // One is made ahead at a time. Who else has one made has lost theirs: a busy machine may be late with all.
                    () = door.until(|seen| seen.dialling > 1) => false,
                };
                door.open();
                door.until(|seen| seen.dialling == 0).await;
                if is_unhindered {
                    break;
                }
            }
            until(&db, |status| status.nodes[0].pool.renewed >= 3).await;
            is_over.store(true, Ordering::Release);
        };
        let both = Box::pin(join(join_all(borrowers), looking));
        timeout(2 * LIMIT, both).await.expect("one is made ahead while all others are there");
        assert!(door.most() <= DIALS_MAX, "{} at once", door.most());
    });
}
