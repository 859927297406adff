//! TLS: servers whose certificates a private authority makes, those that are not to be trusted, and those that ask who is there.

use std::{
    env, fs, io,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use paystrata_cache::{Cache, RedisOptions, RedisServers, RedisTier};
use tracing::subscriber::DefaultGuard;

use crate::{
    fixture::{Node, eventually, patient},
    server::{Cluster, Server, cluster_node, free_port, sentinel},
    whole::{Numbers, check, read},
    wholes::whole_with,
};

/// Everything that `openssl` is told: none of the system's settings count.
const SETTINGS: &str = "\
[req]
distinguished_name = subject
prompt = no
[subject]
[ca]
default_ca = issuer
[issuer]
database = issued
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical,CA:TRUE
[here]
basicConstraints = CA:FALSE
subjectAltName = IP:127.0.0.1
[elsewhere]
basicConstraints = CA:FALSE
subjectAltName = DNS:elsewhere.example
";

/// An elliptic key, which is made at once.
const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

const PAST: &str = "20200102000000Z";
const FAR_OFF: &str = "20490101000000Z";

/// Makes certificates, in a directory that goes with it.
struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("settings"), SETTINGS).unwrap();
        fs::write(directory.path().join("issued"), "").unwrap();
        let authority = Self { directory };
        authority.openssl(&format!(
            "req -config settings -x509 -extensions authority {NEW_KEY} -subj /CN={name} -days 3650 \
             -keyout authority.key -out authority.pem"
        ));
        authority
    }

    /// One that holds for this machine, or for another, until then.
    fn issue(&self, name: &str, place: &str, until: &str) {
        self.openssl(&format!(
            "req -config settings -new {NEW_KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "ca -config settings -batch -notext -cert authority.pem -keyfile authority.key \
             -in {name}.csr -out {name}.pem -extensions {place} -startdate 20200101000000Z -enddate {until}"
        ));
    }

    fn openssl(&self, words: &str) {
        let made = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(self.directory.path())
            .output()
            .expect("these tests need openssl in the path");
        assert!(made.status.success(), "{words}: {}", String::from_utf8_lossy(&made.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        Some(fs::read(self.path(name)).unwrap())
    }

    /// The servers as one sees them who trusts this authority and no other.
    fn trusted(&self, servers: RedisServers) -> RedisServers {
        RedisServers::Tls {
            servers: Box::new(servers),
            root_certificates: self.read("authority.pem"),
            client_certificate: None,
            client_key: None,
        }
    }

    /// Settings of a server that speaks TLS on a port, each with its value.
    fn settings(&self, certificate: &str, port: u16) -> Vec<[String; 2]> {
        let path = |name: String| self.path(&name).display().to_string();
        vec![
            ["tls-port".to_owned(), port.to_string()],
            ["tls-cert-file".to_owned(), path(format!("{certificate}.pem"))],
            ["tls-key-file".to_owned(), path(format!("{certificate}.key"))],
            ["tls-ca-cert-file".to_owned(), path("authority.pem".to_owned())],
        ]
    }

    /// The same as arguments.
    fn arguments(&self, certificate: &str, port: u16) -> Vec<String> {
        let arguments = self.settings(certificate, port).into_iter();
        arguments.flat_map(|[name, value]| [format!("--{name}"), value]).collect()
    }
}

fn url(port: u16) -> String {
    format!("rediss://127.0.0.1:{port}")
}

/// Handshakes take their time in a build for tests.
fn slow() -> RedisOptions {
    RedisOptions { connect_timeout: Duration::from_secs(30), ..patient() }
}

/// Speaks TLS on a port of its own; the tests themselves ask it on the plain one.
struct Secured {
    server: Server,
    port: u16,
}

impl Secured {
    async fn start(authority: &Authority, certificate: &str, more: &[&str]) -> Self {
        let port = free_port();
        let arguments = authority.arguments(certificate, port);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Self { server: Server::start_with(&arguments).await, port }
    }

    fn servers(&self) -> RedisServers {
        RedisServers::Single { url: url(self.port) }
    }
}

/// Waits until nobody is connected plainly, but who asks.
async fn nobody_speaks_plainly(server: &Server) {
    let place = format!(" laddr=127.0.0.1:{} ", server.port());
    eventually("only who asks speaks plainly", async || {
        server.ask::<String>("CLIENT LIST").await.matches(&place).count() == 1
    })
    .await;
}

async fn connections_over_tls(server: &Server, port: u16) -> usize {
    server.ask::<String>("CLIENT LIST").await.matches(&format!(" laddr=127.0.0.1:{port} ")).count()
}

async fn whole(servers: &RedisServers) -> Numbers {
    whole_with(servers, slow()).await
}

/// A cache that does not wait for its servers.
fn unconnected(servers: &RedisServers) -> (Numbers, Arc<RedisTier>) {
    let tier = Arc::new(RedisTier::open(servers, slow()).unwrap());
    (Cache::builder("whole").tier(tier.clone()).backplane(tier.clone()).build(), tier)
}

/// The errors that are logged on this thread, on which the tasks of its test run too.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<u8>>>);

impl io::Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Errors {
    /// From now on, until the guard goes.
    fn heard() -> (Self, DefaultGuard) {
        let errors = Self::default();
        let writer = errors.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (errors, tracing::subscriber::set_default(subscriber))
    }

    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(text).count()
    }
}

#[tokio::test]
async fn two_nodes_over_tls_agree_and_every_connection_of_theirs_is_over_tls() {
    let authority = Authority::new("authority");
    authority.issue("server", "here", FAR_OFF);
    let secured = Secured::start(&authority, "server", &["--tls-auth-clients", "no"]).await;
    let servers = authority.trusted(secured.servers());
    let (one, other) = (whole(&servers).await, whole(&servers).await);
    check(&one, &other).await;
    nobody_speaks_plainly(&secured.server).await;
    // Of each node one for commands and one for announcements.
    let connections = connections_over_tls(&secured.server, secured.port).await;
    assert!(connections >= 4, "{connections}");
}

#[tokio::test]
async fn server_that_is_not_trusted_is_told_once_and_left_alone_and_values_are_loaded() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    authority.issue("server", "here", FAR_OFF);
    authority.issue("expired", "here", PAST);
    authority.issue("misplaced", "elsewhere", FAR_OFF);
    for (believed, certificate, cause) in [
        (&stranger, "server", "its certificate is by no authority that is trusted"),
        (&authority, "expired", "its certificate has expired"),
        (&authority, "misplaced", "its certificate is for another name"),
    ] {
        let secured = Secured::start(&authority, certificate, &["--tls-auth-clients", "no"]).await;
        let (errors, _guard) = Errors::heard();
        let (cache, tier) = unconnected(&believed.trusted(secured.servers()));
        eventually(cause, async || errors.count(cause) > 0).await;
        assert_eq!(read(&cache, "k", 7).await, Some(7), "{cause}");
        assert!(!tier.is_up(), "{cause}");
        assert_eq!(errors.count("of=\"redis\" cause"), 1, "{cause}");
        nobody_speaks_plainly(&secured.server).await;
        assert!(secured.server.ask::<Vec<String>>("KEYS *").await.is_empty(), "{cause}");
    }
}

#[tokio::test]
async fn server_that_asks_who_is_there_takes_who_has_a_certificate() {
    let authority = Authority::new("authority");
    authority.issue("server", "here", FAR_OFF);
    authority.issue("client", "here", FAR_OFF);
    let log = authority.path("log").display().to_string();
    // Keeps no sessions, and gives tickets for them all the same, which it then refuses.
    let strict = ["--tls-auth-clients", "yes", "--tls-session-caching", "no", "--logfile", &log];
    let secured = Secured::start(&authority, "server", &strict).await;
    let servers = |certificate, key| RedisServers::Tls {
        servers: Box::new(secured.servers()),
        root_certificates: authority.read("authority.pem"),
        client_certificate: certificate,
        client_key: key,
    };
    let (cache, tier) = unconnected(&servers(None, None));
    let refused = "Error accepting a client connection";
    eventually("who has none is refused", async || fs::read_to_string(&log).unwrap().contains(refused)).await;
    assert_eq!(read(&cache, "k", 7).await, Some(7));
    assert!(!tier.is_up());
    let known = servers(authority.read("client.pem"), authority.read("client.key"));
    check(&whole(&known).await, &whole(&known).await).await;
    assert!(!tier.is_up());
    // Connections of one tier, one after the other.
    let node = Node::up(&known, slow()).await;
    for _ in 0..6 {
        let _: usize = secured.server.ask("CLIENT KILL TYPE normal SKIPME yes").await;
        node.settled().await;
    }
}

#[test]
fn key_of_another_certificate_is_refused_by_its_field() {
    let authority = Authority::new("authority");
    authority.issue("client", "here", FAR_OFF);
    let servers = RedisServers::Tls {
        servers: Box::new(RedisServers::Single { url: "rediss://127.0.0.1".to_owned() }),
        root_certificates: authority.read("authority.pem"),
        client_certificate: authority.read("client.pem"),
        client_key: authority.read("authority.key"),
    };
    let refusal = RedisTier::open(&servers, patient()).unwrap_err().to_string();
    assert!(refusal.starts_with("client_key cannot be used"), "{refusal}");
}

/// Where the system's certificates are belongs to a process: the test runs itself again, with what it finds in this place.
#[tokio::test]
async fn authorities_that_the_system_trusts_are_trusted_where_no_others_are_named() {
    const SERVER: &str = "PAYSTRATA_TEST_TLS_SERVER";
    if let Ok(url) = env::var(SERVER) {
        let servers = RedisServers::Single { url };
        return check(&whole(&servers).await, &whole(&servers).await).await;
    }
    let authority = Authority::new("authority");
    authority.issue("server", "here", FAR_OFF);
    let secured = Secured::start(&authority, "server", &["--tls-auth-clients", "no"]).await;
    let again = tokio::process::Command::new(env::current_exe().unwrap())
        .args(["--exact", "tls::authorities_that_the_system_trusts_are_trusted_where_no_others_are_named"])
        .env(SERVER, url(secured.port))
        .env("SSL_CERT_FILE", authority.path("authority.pem"))
        .env_remove("SSL_CERT_DIR")
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && told.contains("1 passed"), "{told}");
}

#[tokio::test]
async fn two_nodes_over_a_cluster_that_speaks_tls_agree() {
    let authority = Authority::new("authority");
    authority.issue("server", "here", FAR_OFF);
    let (mut nodes, mut seeds) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let (bus, port) = (free_port(), free_port());
        let arguments = authority.arguments("server", port);
        let among_each_other =
            ["--tls-auth-clients", "no", "--tls-cluster", "yes", "--tls-replication", "yes"];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(among_each_other).collect();
        nodes.push(cluster_node(bus, &arguments).await);
        seeds.push(url(port));
    }
    let cluster = Cluster::of(nodes).await;
    let servers = authority.trusted(RedisServers::Cluster { seeds: seeds[..2].to_vec() });
    let (one, other) = (whole(&servers).await, whole(&servers).await);
    check(&one, &other).await;
    for node in &cluster.nodes {
        nobody_speaks_plainly(node).await;
    }
}

#[tokio::test]
async fn sentinels_and_the_primary_that_they_name_are_spoken_to_over_tls() {
    let authority = Authority::new("authority");
    authority.issue("server", "here", FAR_OFF);
    let primary = Secured::start(&authority, "server", &["--tls-auth-clients", "no"]).await;
    let port = free_port();
    let settings = authority.settings("server", port).into_iter();
    let settings: String = settings.map(|[name, value]| format!("{name} {value}\n")).collect();
    let more = format!("{settings}tls-auth-clients no\ntls-replication yes\n");
    let watch = sentinel(&primary.port.to_string(), &more).await;
    let servers = authority.trusted(RedisServers::Sentinel {
        sentinels: vec![url(port)],
        service: "pay".to_owned(),
        login: "rediss://unused".to_owned(),
    });
    let (one, other) = (whole(&servers).await, whole(&servers).await);
    check(&one, &other).await;
    for server in [&primary.server, &watch] {
        nobody_speaks_plainly(server).await;
    }
    // The sentinel has two as well.
    let connections = connections_over_tls(&primary.server, primary.port).await;
    assert!(connections >= 6, "{connections}");
}
