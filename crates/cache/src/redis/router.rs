//! Which link a key's commands go over: the only one, or that of the cluster node that has its slot.
//! Keeps the map of a cluster up to date, and a link to each of its primaries. It does so itself because
//! a client that follows a failover in silence would read what the new primary remembers as if nothing
//! had been lost; here each primary is known by its witness.
//! Refuses to send anything to replicas. Called by `exec`; its tasks are owned by `RedisTier`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use redis::{AsyncConnectionConfig, Value};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    RedisOptions,
    dial::Endpoint,
    failure::Failure,
    keys::Slots,
    link::Link,
    lock,
    origin::Origin,
    slots::{Place, SlotMap},
};
use crate::complaint::Complaint;

/// Between two looks at the map of a cluster in which nothing seems amiss.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// Between two looks at least, and at first while a primary is down or a slot was not where it should be.
const REFRESH_AMISS: Duration = Duration::from_millis(100);

/// Between two looks at most while a primary is down. Who is sent elsewhere does not wait for it.
const REFRESH_AMISS_MAX: Duration = Duration::from_secs(1);

/// For how long a server without slots is kept after it was last named: that is where a slot moves to first.
const GUEST_LIFE: Duration = Duration::from_secs(60);

/// Servers without slots that are kept. More are named only by a cluster that does not agree with itself.
const GUESTS_MAX: usize = 64;

/// Where the links are.
pub(super) enum Router {
    One(Arc<Link>),
    Cluster(Cluster),
}

/// The links to a cluster's primaries.
pub(super) struct Cluster {
    seeds: Vec<Endpoint>,
    options: RedisOptions,
    chart: ArcSwap<Chart>,
    /// Servers that callers were sent on to and that have no slots, and when that was last.
    guests: Mutex<HashMap<Place, Instant>>,
    /// Counts the charts, for those who wait for the next.
    drawn: watch::Sender<u64>,
    amiss: Arc<Notify>,
}

/// A map with the links that belong to it.
struct Chart {
    map: Option<SlotMap>,
    /// Those of the primaries of the map, then those of guests.
    links: Vec<Arc<Link>>,
    guests: Vec<Place>,
}

impl Router {
    pub(super) fn one(origin: Origin, options: &RedisOptions) -> Self {
        Self::One(Arc::new(Link::new(origin, Slots::Unused, options, Arc::default())))
    }

    pub(super) fn cluster(seeds: Vec<Endpoint>, options: &RedisOptions) -> Self {
        Self::Cluster(Cluster {
            seeds,
            options: options.clone(),
            chart: ArcSwap::from_pointee(Chart { map: None, links: Vec::new(), guests: Vec::new() }),
            guests: Mutex::default(),
            drawn: watch::Sender::new(0),
            amiss: Arc::default(),
        })
    }

    /// True while some server can be asked.
    pub(super) fn is_up(&self) -> bool {
        match self {
            Self::One(link) => link.is_up(),
            Self::Cluster(cluster) => cluster.chart.load().links.iter().any(|link| link.is_up()),
        }
    }

    /// The link to the primary of a slot; none if it is not known.
    pub(super) fn link(&self, slot: u16) -> Option<Arc<Link>> {
        match self {
            Self::One(link) => Some(Arc::clone(link)),
            Self::Cluster(cluster) => {
                let chart = cluster.chart.load();
                let owner = chart.map.as_ref()?.owner(slot)?;
                chart.links.get(owner).map(Arc::clone)
            }
        }
    }

    /// The link to the primary at a place; none if there is none yet, and then there will be one soon.
    pub(super) fn link_at(&self, place: &Place) -> Option<Arc<Link>> {
        let Self::Cluster(cluster) = self else { return None };
        let chart = cluster.chart.load();
        let primaries = &chart.map.as_ref()?.primaries;
        let number = primaries.iter().position(|primary| primary == place).or_else(|| {
            cluster.invite(place);
            Some(primaries.len() + chart.guests.iter().position(|guest| guest == place)?)
        })?;
        chart.links.get(number).map(Arc::clone)
    }

    /// Commands of several slots may not go together.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Reads wait for one server in such a number that they had better go together.
    pub(super) fn is_crowded(&self) -> bool {
        matches!(self, Self::One(link) if link.is_crowded())
    }

    /// Has the map looked at soon.
    pub(super) fn doubt(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.amiss.notify_one();
        }
    }

    /// Waits for the next map, but not for long.
    pub(super) async fn next_map(&self) {
        if let Self::Cluster(cluster) = self {
            let mut drawn = cluster.drawn.subscribe();
            cluster.amiss.notify_one();
            let _late = timeout(REFRESH_AMISS * 2, drawn.changed()).await;
        }
    }

    /// A server to subscribe at, near to the primary of the slot.
    pub(super) fn subscribe_at(&self, slot: u16) -> Option<Endpoint> {
        if let Some(live) = self.link(slot).and_then(|link| link.live()) {
            return Some(live.endpoint.clone());
        }
        let Self::Cluster(cluster) = self else { return None };
        let chart = cluster.chart.load();
        chart.links.iter().find_map(|link| link.live()).map(|live| live.endpoint.clone())
    }

    /// Keeps the links up. Never returns; dropped with the tier.
    pub(super) async fn supervise(self: Arc<Self>) {
        match &*self {
            Self::One(link) => Arc::clone(link).supervise().await,
            Self::Cluster(cluster) => cluster.supervise().await,
        }
    }
}

/// The links under supervision, each with what ends it.
#[derive(Default)]
struct Kept {
    links: HashMap<Place, (Arc<Link>, tokio::task::AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Cluster {
    async fn supervise(&self) {
        let (mut kept, mut complaint) = (Kept::default(), Complaint::of("redis, the map of its cluster"));
        let mut pause = REFRESH_AMISS;
        loop {
            match self.look().await {
                Ok(map) => {
                    complaint.connected();
                    self.follow(map, &mut kept);
                }
                Err(failure) => complaint.tell(&failure, failure.outlook()),
            }
            // One look answers all who doubted until now; those who doubt later ask for another.
            let is_sound = !kept.links.is_empty() && kept.links.values().all(|(link, _)| link.is_up());
            sleep(REFRESH_AMISS.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            let wait = if is_sound { REFRESH_EVERY } else { pause };
            pause = if is_sound { REFRESH_AMISS } else { (pause * 2).min(REFRESH_AMISS_MAX) };
            let _late = timeout(wait, self.amiss.notified()).await;
        }
    }

    /// Has a link made to a server that has no slots, or kept.
    fn invite(&self, place: &Place) {
        let mut guests = lock(&self.guests);
        if let Some(named_at) = guests.get_mut(place) {
            *named_at = Instant::now();
        } else if guests.len() < GUESTS_MAX {
            guests.insert(place.clone(), Instant::now());
            self.amiss.notify_one();
        }
    }

    fn guests(&self, map: &SlotMap) -> Vec<Place> {
        let mut guests = lock(&self.guests);
        guests.retain(|place, named_at| named_at.elapsed() < GUEST_LIFE && !map.primaries.contains(place));
        guests.keys().cloned().collect()
    }

    fn follow(&self, map: SlotMap, kept: &mut Kept) {
        let guests = self.guests(&map);
        kept.links.retain(|place, (_, task)| {
            let stays = map.primaries.contains(place) || guests.contains(place);
            if !stays {
                task.abort();
            }
            stays
        });
        while kept.tasks.try_join_next().is_some() {}
        let links = map.primaries.iter().chain(&guests).map(|place| {
            let (link, _) = kept.links.entry(place.clone()).or_insert_with(|| {
                let origin = Origin::Fixed(self.seeds[0].at(&place.0, place.1));
                let link = Arc::new(Link::new(origin, Slots::Needed, &self.options, Arc::clone(&self.amiss)));
                let task = kept.tasks.spawn(Arc::clone(&link).supervise());
                (link, task)
            });
            Arc::clone(link)
        });
        let links = links.collect();
        self.chart.store(Arc::new(Chart { map: Some(map), links, guests }));
        self.drawn.send_modify(|count| *count += 1);
    }

    /// The map as most nodes that answer see it; a node that is cut off may have an old one.
    async fn look(&self) -> Result<SlotMap, Failure> {
        let known = self.chart.load().map.as_ref().map(|map| map.primaries.clone()).unwrap_or_default();
        let known = known.iter().map(|(host, port)| self.seeds[0].at(host, *port));
        let mut places = known.collect::<Vec<_>>();
        for seed in &self.seeds {
            if !places.iter().any(|place| place.is_where(seed)) {
                places.push(seed.clone());
            }
        }
        let (mut maps, mut silence) = (Vec::<SlotMap>::new(), Failure::Nowhere);
        for answer in join_all(places.iter().map(|place| self.ask(place))).await {
            match answer {
                Ok(map) => maps.push(map),
                // Somebody has to look, where others only have to come back.
                Err(failure @ Failure::Untrusted(_)) => silence = failure,
                Err(_) => {}
            }
        }
        let votes = |map: &SlotMap| maps.iter().filter(|other| *other == map).count();
        maps.iter().max_by_key(|map| votes(map)).cloned().ok_or(silence)
    }

    async fn ask(&self, place: &Endpoint) -> Result<SlotMap, Failure> {
        let limit = self.options.connect_timeout;
        let asking = async {
            let mut dialed = place.connect(AsyncConnectionConfig::new(), limit).await?;
            let answer: Value =
                redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut dialed.connection).await?;
            SlotMap::from_answer(answer, place.host()).ok_or(Failure::Unreadable)
        };
        timeout(limit, asking).await.unwrap_or(Err(Failure::Slow))
    }
}
