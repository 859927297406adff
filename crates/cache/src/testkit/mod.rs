//! A kit for tests: shared tiers and a line in memory whose faults are at the test's command, on Tokio's clock, which
//! a test can pause, for caches and loaders of your own; and a simulator of many nodes that checks the promises of this crate
//! against the rule by which a loader chooses where to read ([`SimulatedLoader`] says what it can run and what not).
//! Refuses to be fast or bounded: it is not for production. The cache's own tests and those of its users call it.
//!
//! ```
//! use std::sync::Arc;
//! use paystrata_cache::{Cache, Clock, Version, testkit::Site};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let site = Site::new(1);
//! let node = |name| {
//!     let link = site.link();
//!     let tier = Arc::new(link.clone());
//!     Cache::<u64, u64>::builder(name).clock(Clock::tokio()).tier(tier.clone()).backplane(tier).build()
//! };
//! let (one, other) = (node("rates"), node("rates"));
//! one.set(7, 42, Version(1)).unwrap().await;
//! assert_eq!(other.get(&7), None);
//! # }
//! ```

mod behind;
mod changes;
mod convergence;
mod demands;
mod faults;
mod line;
mod predicates;
mod reads;
mod simulator;
mod source;
mod tier;

use std::sync::Arc;

pub use changes::Ways;
pub use faults::Faults;
pub use line::{Overheard, Wire};
pub use reads::Verbs;
pub use simulator::{Report, Simulation};
pub use source::{HonestLoader, Seen, SimulatedLoader, SimulationError, Source};
pub use tier::{Shelf, whole};

use crate::{
    backplane::{Backplane, Line},
    tier::{Tier, TierShare},
};

/// The servers that all nodes of a test share: a tier and a line. Any cache can be built on them, whatever its keys, values and loader.
#[derive(Debug, Clone)]
pub struct Site {
    /// The tier's records.
    pub shelf: Shelf,
    /// The line's order.
    pub wire: Wire,
}

impl Site {
    /// New servers. Every wait and every fault is drawn from the seed.
    pub fn new(seed: u64) -> Self {
        Self { shelf: Shelf::new(seed), wire: Wire::new(seed.wrapping_add(1)) }
    }

    /// One node's way to them.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn link(&self) -> Link {
        let faults = Arc::new(Faults::new());
        let ear = self.wire.ear(&faults);
        Link { site: self.clone(), faults, ear: Arc::new(ear) }
    }

    /// Loses everything, as a server without persistence does that stops and starts again.
    pub fn restart(&self) {
        self.shelf.restart();
        self.wire.restart();
    }
}

/// One node's way to the servers, and what is wrong with it. Both a tier and a backplane.
#[derive(Debug, Clone)]
pub struct Link {
    site: Site,
    /// What is wrong with this node's way.
    pub faults: Arc<Faults>,
    ear: Arc<line::Ear>,
}

impl Link {
    /// Cuts the subscription; what was on its way is lost.
    pub fn deafen(&self) {
        self.ear.deafen();
    }

    /// Loses what is on its way, because more came than this node could take; it is told so.
    pub fn overflow(&self) {
        self.ear.overflow();
    }

    /// Subscribes again.
    pub fn mend_hearing(&self) {
        self.ear.mend();
    }

    /// Ends all faults.
    pub fn mend(&self) {
        self.faults.mend();
        self.ear.mend();
    }

    /// Has the test told of each announcement, once it has been applied on this node.
    pub fn overhear(&self, heard: impl Fn(&Overheard) + Send + Sync + 'static) {
        self.ear.overhear(Box::new(heard));
    }
}

impl Tier for Link {
    fn share(&self, cache: &str) -> Arc<dyn TierShare> {
        Arc::new(self.site.shelf.share(cache, &self.faults))
    }
}

impl Backplane for Link {
    fn line(&self, cache: &str) -> Arc<dyn Line> {
        Arc::new(self.site.wire.share(cache, &self.faults, &self.ear))
    }
}
