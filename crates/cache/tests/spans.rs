//! What a collector of traces sees of a cache: which spans, beneath which, with which fields, and no secret in any.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in shared functions too")]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use paystrata_cache::{Cache, Clock, Invalidation, LoadContext, Policy, Version, testkit::Site};
use tracing::{
    Event, Id, Instrument, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

const KEY: &str = "key-4111111111111111";
const VALUE: &str = "value-of-the-cardholder";
const TAG: &str = "tag-of-the-merchant";

#[derive(Debug, Clone, Default)]
struct Seen {
    name: String,
    parent: Option<String>,
    fields: BTreeMap<String, String>,
}

/// All spans that were closed, and the text of all events.
#[derive(Clone, Default)]
struct Collector {
    open: Arc<Mutex<BTreeMap<u64, Seen>>>,
    closed: Arc<Mutex<Vec<Seen>>>,
    said: Arc<Mutex<String>>,
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let parent = span.parent().map(|parent| parent.name().to_owned());
        let mut seen = Seen { name: span.name().to_owned(), parent, ..Seen::default() };
        attributes.record(&mut Fields(&mut seen.fields));
        self.open.lock().unwrap().insert(id.into_u64(), seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _context: Context<'_, S>) {
        if let Some(seen) = self.open.lock().unwrap().get_mut(&id.into_u64()) {
            values.record(&mut Fields(&mut seen.fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        self.said.lock().unwrap().push_str(&format!("{fields:?}\n"));
    }

    fn on_close(&self, id: Id, _context: Context<'_, S>) {
        let seen = self.open.lock().unwrap().remove(&id.into_u64());
        self.closed.lock().unwrap().extend(seen);
    }
}

impl Collector {
    fn start() -> (Self, DefaultGuard) {
        let collector = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(collector.clone()));
        (collector, guard)
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.closed.lock().unwrap())
    }
}

fn of<'a>(spans: &'a [Seen], name: &str) -> Vec<&'a Seen> {
    spans.iter().filter(|seen| seen.name == name).collect()
}

fn field<'a>(seen: &'a Seen, name: &str) -> &'a str {
    seen.fields.get(name).map_or("", String::as_str)
}

type Names = Cache<String, String>;

fn node(site: &Site) -> (Names, paystrata_cache::testkit::Link) {
    let link = site.link();
    let tier = Arc::new(link.clone());
    let cache = Cache::builder("names")
        .policy(Policy {
            refresh_at: 0.5,
            ttl: Duration::from_secs(10),
            grace: Duration::from_secs(60),
            jitter: 0.0,
            ..Policy::default()
        })
        .clock(Clock::tokio())
        .tier(Arc::<paystrata_cache::testkit::Link>::clone(&tier))
        .backplane(tier)
        .build();
    (cache, link)
}

async fn trips() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn load(context: LoadContext<String>) -> Result<Option<String>, std::io::Error> {
    tracing::info_span!("query").in_scope(|| context.tag(TAG));
    Ok(Some(VALUE.to_owned()))
}

async fn fail(_context: LoadContext<String>) -> Result<Option<String>, std::io::Error> {
    Err(std::io::Error::other(VALUE))
}

#[tokio::test(start_paused = true)]
async fn miss_is_seen_from_the_read_to_the_loader_and_a_hit_is_not_seen_at_all() {
    let (collector, _guard) = Collector::start();
    let (cache, _link) = node(&Site::new(1));
    trips().await;
    collector.take();
    cache.get_or_load(KEY, load).await.unwrap();
    trips().await;
    let spans = collector.take();
    let [read] = of(&spans, "cache.get_or_load")[..] else { panic!("{spans:?}") };
    assert_eq!((field(read, "cache.name"), field(read, "cache.outcome")), ("names", "loader"));
    let [loaded] = of(&spans, "cache.load")[..] else { panic!("{spans:?}") };
    assert_eq!(
        (loaded.parent.as_deref(), field(loaded, "cache.outcome")),
        (Some("cache.get_or_load"), "found")
    );
    assert_eq!(of(&spans, "query")[0].parent.as_deref(), Some("cache.load"));
    let [asked] = of(&spans, "cache.tier.read")[..] else { panic!("{spans:?}") };
    assert_eq!(asked.parent.as_deref(), Some("cache.get_or_load"));
    let fields = ["otel.kind", "db.system.name", "db.operation.name", "db.operation.batch.size"];
    assert_eq!(fields.map(|name| field(asked, name)), ["client", "memory", "read", "1"]);
    // The caller's trace is over before the tier has it.
    assert_eq!(of(&spans, "cache.write_back")[0].parent, None);
    assert_eq!(of(&spans, "cache.tier.settle")[0].parent.as_deref(), Some("cache.write_back"));

    (0..1_000).for_each(|_| assert!(cache.get(KEY).is_some()));
    cache.get_or_load(KEY, load).await.unwrap();
    assert_eq!(collector.take().len(), 0);

    tokio::time::sleep(Duration::from_secs(6)).await;
    collector.take();
    cache.get_or_load(KEY, load).await.unwrap();
    trips().await;
    let spans = collector.take();
    assert_eq!(of(&spans, "cache.refresh")[0].parent, None);
    assert_eq!(of(&spans, "cache.load")[0].parent.as_deref(), Some("cache.refresh"));
    assert_eq!(field(of(&spans, "cache.load")[0], "cache.trigger"), "refresh");
}

#[tokio::test(start_paused = true)]
async fn failures_say_their_kind_and_changes_how_far_they_got() {
    let (collector, _guard) = Collector::start();
    let (cache, link) = node(&Site::new(2));
    trips().await;
    collector.take();
    cache.get_or_load(KEY, fail).await.unwrap_err();
    trips().await;
    let spans = collector.take();
    assert_eq!(field(of(&spans, "cache.get_or_load")[0], "error.type"), "load_failed");
    assert_eq!(field(of(&spans, "cache.load")[0], "error.type"), "failed");
    assert_eq!(field(of(&spans, "cache.load")[0], "otel.status_code"), "ERROR");

    cache.invalidate_many([KEY], Version(3)).await;
    let spans = collector.take();
    assert_eq!(field(of(&spans, "cache.invalidate")[0], "cache.reach"), "fleet");
    assert_eq!(of(&spans, "cache.tier.void")[0].parent.as_deref(), Some("cache.announce"));

    link.faults.lose_answers(100);
    cache.get_or_load(KEY, load).await.unwrap();
    let spans = collector.take();
    assert_eq!(field(of(&spans, "cache.tier.read")[0], "error.type"), "timeout");
}

#[tokio::test(start_paused = true)]
async fn read_of_many_keys_says_how_all_of_them_ended_or_that_they_differ() {
    let (collector, _guard) = Collector::start();
    let site = Site::new(4);
    let ((one, _), (other, _other_link)) = (node(&site), node(&site));
    trips().await;
    let batch = |keys: Vec<String>, _| async move {
        let tell = |key: &String| {
            if key == "bad" { Err(std::io::Error::other(VALUE)) } else { Ok(VALUE.to_owned()) }
        };
        Ok::<_, std::io::Error>(keys.iter().map(tell).collect::<Vec<_>>())
    };
    let outcome = || {
        let spans = collector.take();
        let [seen] = of(&spans, "cache.get_or_load")[..] else { panic!("{spans:?}") };
        ["cache.keys", "cache.outcome", "error.type"].map(|name| field(seen, name).to_owned())
    };
    collector.take();
    one.get_or_load_many(["a", "b"], batch).await;
    assert_eq!(outcome(), ["2", "loader", ""]);
    trips().await;
    collector.take();
    other.get_or_load_many(["a", "b"], batch).await;
    assert_eq!(outcome(), ["2", "tier", ""]);
    one.get_or_load_many(["c", "bad"], batch).await;
    assert_eq!(outcome(), ["2", "mixed", "load_failed"]);
    trips().await;
    collector.take();
    let versioned = [("a", Version(9)), ("b", Version(9))];
    one.get_or_load_many_at_least(versioned, batch).await;
    // Its load goes on as far as to the tier.
    trips().await;
    assert_eq!(outcome(), ["2", "loader", ""]);
    other.read_many(["none", "c"]).await;
    assert_eq!(outcome(), ["2", "mixed", ""]);
    assert!(other.read("none").await.is_none());
    assert_eq!(outcome(), ["1", "nothing", ""]);
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_the_same_span_whether_the_cache_or_a_caller_has_asked_for_it() {
    let (collector, _guard) = Collector::start();
    let (ttl, minute) = (Duration::from_secs(10), Duration::from_secs(60));
    let cache: Names = Cache::builder("names")
        .policy(Policy { ttl, jitter: 0.0, ..Policy::default() })
        .clock(Clock::tokio())
        .maintain_every(minute)
        .build();
    cache.get_or_load(KEY, load).await.unwrap();
    tokio::time::sleep(minute + ttl / 2).await;
    let by_itself = collector.take();
    cache.get_or_load(KEY, load).await.unwrap();
    tokio::time::sleep(2 * ttl).await;
    let done = cache.maintain().instrument(tracing::info_span!("request")).await;
    let by_hand = collector.take();
    for spans in [&by_itself, &by_hand] {
        let [seen] = of(spans, "cache.maintain")[..] else { panic!("{spans:?}") };
        assert_eq!((field(seen, "cache.name"), field(seen, "cache.keys")), ("names", "1"));
        assert_eq!((&seen.parent, seen.fields.len()), (&None, 2), "a trace of its own");
    }
    assert_eq!((done.entries, of(&by_hand, "request").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn keys_of_changes_that_cannot_be_read_are_one_warning_that_names_the_type_and_no_key() {
    let (collector, _guard) = Collector::start();
    let cache: Names = Cache::builder("names").build();
    let change = Invalidation::at(Version(5)).remove(&[0xff_u8; 4]);
    for _ in 0..3 {
        drop(cache.invalidate_by(&change));
    }
    let said = collector.said.lock().unwrap().clone();
    let told: Vec<&str> = said.lines().filter(|line| line.contains("cannot be read")).collect();
    let [told] = told[..] else { panic!("{said}") };
    assert!(told.contains("String") && told.contains("names") && !told.contains("255"), "{told}");
    assert_eq!(cache.stats().unreadable_keys, 3);
}

#[tokio::test(start_paused = true)]
async fn load_timeout_that_the_tiers_can_use_up_is_a_warning_that_names_both_fields() {
    let (collector, _guard) = Collector::start();
    let tier = || Arc::new(Site::new(5).link());
    // Two tiers of 100 ms each.
    let build = |load_timeout| {
        let policy = Policy { load_timeout, ..Policy::default() };
        drop(Names::builder("names").policy(policy).tier(tier()).tier(tier()).build());
        let said = std::mem::take(&mut *collector.said.lock().unwrap());
        let is_warning = |line: &&str| line.contains("hardly what was meant");
        said.lines().filter(is_warning).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(build(Duration::from_millis(201)).len() + build(Duration::MAX).len(), 0);
    let warnings = build(Duration::from_millis(200));
    let [told] = &warnings[..] else { panic!("{warnings:?}") };
    for part in ["names", "`Policy::load_timeout` is 200ms", "`TierOptions::timeout`"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

// P11
#[tokio::test(start_paused = true)]
async fn no_span_and_no_event_names_a_key_a_value_or_a_tag() {
    let (collector, _guard) = Collector::start();
    let site = Site::new(3);
    let ((one, link), (other, _other_link)) = (node(&site), node(&site));
    trips().await;
    for cache in [&one, &other] {
        cache.get_or_load(KEY, load).await.unwrap();
        let batch = |keys: Vec<String>, _| async move {
            Ok::<_, std::io::Error>(keys.iter().map(|_| Ok::<_, std::io::Error>(VALUE.to_owned())).collect())
        };
        cache.get_or_load_many([KEY, "key-2"], batch).await;
        cache.set_tagged(KEY.to_owned(), VALUE.to_owned(), Version::LATEST, &[TAG]).unwrap().await;
        cache.tag(TAG).remove().await;
        cache.prefix(KEY).expire().await;
        cache.invalidate(KEY).await;
        cache.get_or_load(KEY, fail).await.unwrap_err();
        cache.maintain().await;
    }
    site.shelf.poison("names", &bytes::Bytes::from_static(VALUE.as_bytes()));
    link.faults.set_down(true);
    drop(one.invalidate(KEY));
    trips().await;
    link.mend();
    trips().await;
    let said = format!("{:?}{}{:?}", collector.take(), collector.said.lock().unwrap(), one);
    assert!(said.contains("cache.announce") && said.contains("cache.invalidate"), "{said}");
    for secret in ["4111", VALUE, TAG] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}
