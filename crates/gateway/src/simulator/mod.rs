//! A faithful, seeded, fault-injecting Authorize.Net and VelocityPay over real HTTP.
//! For tests, benches, load and demos; keeps everything in memory and moves no money. Refuses real credentials: only
//! the configured ones are accepted. The triggers are listed in the crate's own page.

mod authorize_net;
mod control;
mod faults;
mod ledger;
mod ordered;
mod reply;
mod schema;
mod server;
mod velocity_pay;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use self::{faults::Faults, ledger::Ledger, server::Served};
pub use self::{
    faults::{Fault, FaultKind, Operation, Trigger},
    ledger::Effects,
};

/// Whether Authorize.Net's replies start with a byte order mark. The real ones do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrderMark {
    /// As the real gateway.
    Sent,
    /// To see that a client takes both.
    Omitted,
}

/// How a simulator behaves.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The seed of random faults.
    pub seed: u64,
    /// What every reply takes.
    pub latency: Duration,
    /// How long after its capture a charge settles, and a refund after its submission.
    pub settle_after: Duration,
    /// Whether replies of Authorize.Net start with a byte order mark.
    pub byte_order_mark: ByteOrderMark,
    /// The login that Authorize.Net accepts.
    pub login: String,
    /// The transaction key that Authorize.Net accepts.
    pub transaction_key: String,
    /// The bearer key that VelocityPay accepts.
    pub api_key: String,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 1,
            latency: Duration::ZERO,
            settle_after: Duration::from_secs(24 * 3600),
            byte_order_mark: ByteOrderMark::Sent,
            login: "simulator".to_owned(),
            transaction_key: "simulator-key".to_owned(),
            api_key: "simulator-api-key".to_owned(),
        }
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    config: SimulatorConfig,
    ledger: Mutex<Ledger>,
    faults: Mutex<Faults>,
    served: Served,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic while the simulator's ledger is locked")
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no panic while the simulator's faults are locked")
    }
}

/// A running simulator. Dropping it stops it; [`Simulator::shutdown`] also waits until it has stopped.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Simulator {
    /// Binds and serves. The error is that of binding.
    pub async fn start(config: SimulatorConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            ledger: Mutex::new(Ledger::new(config.settle_after)),
            faults: Mutex::new(Faults::new(config.seed)),
            served: Served::default(),
            config,
        });
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(server::accept(listener, Arc::clone(&shared), stopped));
        Ok(Self { address, shared, stop, accepting })
    }

    /// Such as `http://127.0.0.1:41234`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint for [`AuthorizeNetConfig`](crate::AuthorizeNetConfig).
    pub fn authorize_net_endpoint(&self) -> String {
        format!("{}/xml/v1/request.api", self.url())
    }

    /// The base URL for [`VelocityPayConfig`](crate::VelocityPayConfig).
    pub fn velocity_pay_base_url(&self) -> String {
        format!("{}/velocity", self.url())
    }

    /// What happened under a reference: the proof that an attempt had one effect.
    pub fn effects(&self, reference: &str) -> Effects {
        self.shared.ledger().effects(reference)
    }

    /// Makes something go wrong.
    pub fn set_fault(&self, fault: Fault) {
        self.shared.faults().set(fault);
    }

    /// Forgets all faults.
    pub fn clear_faults(&self) {
        self.shared.faults().clear();
    }

    /// Lets every authorization that was not captured expire, now.
    pub fn expire_authorizations(&self) {
        self.shared.ledger().expire_authorizations();
    }

    /// Settles everything that waits for settlement, now.
    pub fn settle(&self) {
        self.shared.ledger().settle_all();
    }

    /// Stops accepting, cuts what is open, and returns when all is closed.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // The task ends on its own; it cannot have panicked without a test having seen it.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}
