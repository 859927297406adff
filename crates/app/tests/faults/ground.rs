//! What a fault test stands on: databases, a simulator, services in this process, waiting for a condition. Nothing here
//! knows what is tested.

use std::time::Duration;

use paystrata_app::ledger::verify::verify;
use paystrata_app::serve::Service;
use paystrata_gateway::simulator::{Simulator, SimulatorConfig};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use tokio_postgres::{NoTls, Row};

use crate::caller::Caller;
use crate::stage::{Settings, new_database, settings, start_service};

/// Long enough for anything that happens at all, on a busy machine; no test measures time by it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Databases of this test, and its gateways.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) primary_url: String,
    pub(crate) replica_url: String,
    pub(crate) simulator: Simulator,
}

impl Ground {
    /// A new database on the shared servers.
    pub(crate) async fn new() -> Self {
        Self::seeded(SimulatorConfig::default().seed).await
    }

    /// As [`Self::new`], with the seed of the simulator's random faults.
    pub(crate) async fn seeded(seed: u64) -> Self {
        let (primary_url, replica_url) = new_database().await;
        Self { primary_url, replica_url, simulator: simulator(seed).await }
    }

    /// On servers of the test's own; an empty replica means none.
    pub(crate) async fn on(primary_url: &str, replica_url: &str) -> Self {
        let simulator = simulator(SimulatorConfig::default().seed).await;
        Self { primary_url: primary_url.to_owned(), replica_url: replica_url.to_owned(), simulator }
    }

    /// For a service on this ground, with some settings changed.
    pub(crate) fn settings(&self, changes: &[(&str, &str)]) -> Settings {
        let mut all = settings(&self.primary_url, &self.replica_url, &self.simulator.url());
        let known = SimulatorConfig::default();
        for (name, value) in [
            ("GATEWAYS__AUTHORIZE_NET__LOGIN", known.login.as_str()),
            ("GATEWAYS__AUTHORIZE_NET__TRANSACTION_KEY", &known.transaction_key),
            ("GATEWAYS__VELOCITY_PAY__API_KEY", &known.api_key),
            ("GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "1000"),
            ("GATEWAYS__VELOCITY_PAY__TIMEOUT_MS", "1000"),
            ("RESOLVER__NOT_FOUND_AFTER_MS", "1500"),
        ]
        .into_iter()
        .chain(changes.iter().copied())
        {
            all.insert(format!("PAYSTRATA__{name}"), value.to_owned());
        }
        all
    }

    /// A service in this process.
    pub(crate) async fn serve(&self, changes: &[(&str, &str)]) -> Node {
        let service = Box::pin(start_service(self.settings(changes))).await;
        let caller = Caller::new(format!("http://{}", service.address));
        Node { service, caller }
    }

    /// Waits until the gateway has met every fault that is to strike once.
    pub(crate) async fn until_struck(&self) {
        until("the faults at the gateway", async || {
            // A fault is gone when it has struck.
            let url = format!("{}/control/faults", self.simulator.url());
            let faults = crate::stage::client().get(url).send().await.expect("ask the simulator");
            (faults.text().await.expect("an answer") == "[]").then_some(())
        })
        .await;
    }

    /// Asserts that the ledger holds every promise of `paystrata verify`.
    pub(crate) async fn verify(&self) {
        let config = paystrata_db::Config::new(self.primary_url.parse().expect("a database URL"));
        let db = paystrata_db::Db::connect(config).await.expect("connect to audit");
        let audit = verify(&db.session("audit").await.expect("open a session")).await.expect("audit");
        assert!(audit.broken.is_empty(), "{:#?}", audit.broken);
        db.close().await;
    }
}

async fn simulator(seed: u64) -> Simulator {
    let config = SimulatorConfig { seed, ..SimulatorConfig::default() };
    Simulator::start(config).await.expect("start the simulator")
}

/// One service in this process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) service: Service,
    pub(crate) caller: Caller,
}

/// Bounds how long anything is looked for.
#[derive(Debug)]
pub(crate) struct Patience {
    what: &'static str,
    deadline: Instant,
}

impl Patience {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, deadline: Instant::now() + LIMIT }
    }

    /// Before the next look.
    ///
    /// # Panics
    /// It was looked for long enough.
    pub(crate) async fn pause(&mut self) {
        assert!(Instant::now() < self.deadline, "never seen: {}", self.what);
        sleep(PAUSE).await;
    }
}

/// Looks until `probe` gives something; panics with `what` when it does not in time.
pub(crate) async fn until<T>(what: &'static str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let mut patience = Patience::new(what);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        patience.pause().await;
    }
}

/// Runs a text on a server.
pub(crate) async fn sql(url: &str, text: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client.batch_execute(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
}

/// The rows of one query.
pub(crate) async fn rows(url: &str, text: &str) -> Vec<Row> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client.query(text, &[]).await.unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// The one number that a query gives.
pub(crate) async fn number(url: &str, text: &str) -> i64 {
    rows(url, text).await[0].get(0)
}

/// A generator whose seed is printed, which the test runner shows when the test fails.
#[expect(clippy::print_stdout, reason = "the test runner shows it when the test fails")]
pub(crate) fn seeded() -> StdRng {
    let seed = std::env::var("PAYSTRATA_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("PAYSTRATA_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
