//! A private server that takes nothing but TLS, the certificates that it and its clients show, and a front that sees how connections
//! begin. It needs `openssl`, and what `cluster` needs.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::{free_port, is_root, program, programs, run};

/// Everything that `openssl` is told: none of the system's settings count.
const OPENSSL: &str = "\
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
pub(crate) const RSA_KEY: &str = "-newkey rsa:2048 -nodes";

/// Who comes by another name must know a password, or have a certificate with that name, which is all or comes first.
const RULES: &str = "\
hostssl all postgres 127.0.0.1/32 trust
hostssl all pay 127.0.0.1/32 scram-sha-256
hostssl all known 127.0.0.1/32 cert
hostssl all certified 127.0.0.1/32 trust clientcert=verify-full
";

const SETTINGS: &str = "\
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
ssl_ca_file = 'authority.pem'
log_connections = on
fsync = off
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
";

/// What a certificate is to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holds {
    /// The server's place: `here` or `elsewhere`.
    pub(crate) place: &'static str,
    pub(crate) until: &'static str,
    /// What its signature is a digest by.
    pub(crate) digest: &'static str,
}

/// What a server is to be trusted by.
pub(crate) const SOUND: Holds = Holds { place: "here", until: "20490101000000Z", digest: "sha256" };

/// Makes certificates, in a folder that goes with it.
#[derive(Debug)]
pub(crate) struct Authority {
    folder: PathBuf,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_key(name, NEW_KEY)
    }

    /// Signs with a key of that kind.
    pub(crate) fn with_key(name: &str, key: &str) -> Self {
        let authority = Self { folder: new_folder() };
        std::fs::write(authority.folder.join("settings"), OPENSSL).expect("write settings");
        std::fs::write(authority.folder.join("issued"), "").expect("write a list");
        authority.openssl(&format!(
            "req -config settings -x509 -extensions authority {key} -subj /CN={name} -days 3650 \
             -keyout authority.key -out authority.pem"
        ));
        authority
    }

    /// `name.pem` and `name.key`.
    pub(crate) fn issue(&self, name: &str, holds: Holds) {
        let Holds { place, until, digest } = holds;
        self.openssl(&format!(
            "req -config settings -new {NEW_KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "ca -config settings -batch -notext -md {digest} -cert authority.pem -keyfile authority.key \
             -in {name}.csr -out {name}.pem -extensions {place} -startdate 20200101000000Z -enddate {until}"
        ));
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    fn openssl(&self, words: &str) {
        run(Command::new("openssl").args(words.split(' ')).current_dir(&self.folder));
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

#[derive(Debug)]
pub(crate) struct Secured {
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Secured {
    /// Answers, with that certificate of the authority, which it trusts too.
    pub(crate) fn start(authority: &Authority, certificate: &str) -> Self {
        let server = Self { folder: new_folder(), port: free_port() };
        server.hand_over();
        run(server
            .program("initdb")
            .arg("-D")
            .arg(server.data())
            .args(["-U", "postgres", "-A", "trust", "-N"]));
        let settings = std::fs::OpenOptions::new().append(true).open(server.data().join("postgresql.conf"));
        settings.and_then(|mut file| file.write_all(SETTINGS.as_bytes())).expect("write its settings");
        std::fs::write(server.data().join("pg_hba.conf"), RULES).expect("write whom it lets in");
        server.boot_with(authority, certificate);
        server
    }

    /// Starts it anew with another certificate.
    pub(crate) fn restart_with(&self, authority: &Authority, certificate: &str) {
        self.stop();
        self.boot_with(authority, certificate);
    }

    /// From when it has heard of it, it trusts the clients of that authority and no others.
    pub(crate) fn trust_clients_of(&self, authority: &Authority) {
        let trusted = self.data().join("authority.pem");
        std::fs::copy(authority.path("authority.pem"), trusted).expect("copy a certificate");
        self.hand_over();
        run(self.control().arg("reload"));
    }

    /// In order: what its processes have to log is in the log then.
    pub(crate) fn stop(&self) {
        run(self.control().args(["-m", "fast", "stop"]));
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).expect("read its log")
    }

    /// Where a file of its data is, which its user can read.
    pub(crate) fn path(&self, file: &str) -> String {
        self.data().join(file).display().to_string()
    }

    pub(crate) fn url(&self, user: &str, words: &str) -> String {
        url_at(self.port, user, words)
    }

    fn boot_with(&self, authority: &Authority, certificate: &str) {
        for (from, to) in [
            ("authority.pem".to_owned(), "authority.pem"),
            (format!("{certificate}.pem"), "server.pem"),
            (format!("{certificate}.key"), "server.key"),
        ] {
            std::fs::copy(authority.path(&from), self.data().join(to)).expect("copy a certificate");
        }
        let own = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.data().join("server.key"), own).expect("keep its key to itself");
        self.hand_over();
        let port = format!("-p {}", self.port);
        run(self.control().arg("-l").arg(self.folder.join("log")).args(["-w", "-o", &port, "start"]));
    }

    fn hand_over(&self) {
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres:"]).arg(&self.folder));
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn control(&self) -> Command {
        let mut command = self.program("pg_ctl");
        command.arg("-D").arg(self.data()).arg("-s");
        command
    }

    fn program(&self, name: &str) -> Command {
        program(&programs().join(name), &self.folder)
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        // It may be down already.
        let _stopped = self.control().args(["-m", "immediate", "stop"]).output();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn url_at(port: u16, user: &str, words: &str) -> String {
    format!("postgres://{user}@127.0.0.1:{port}/postgres?{words}")
}

fn new_folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("paystrata-tls-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).expect("make a folder");
    folder
}

/// Stands before a server and keeps the first eight bytes of each connection.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    begun: Arc<Mutex<Vec<[u8; 8]>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Front {
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let begun: Arc<Mutex<Vec<[u8; 8]>>> = Arc::default();
        let seen = Arc::clone(&begun);
        let accepting = tokio::spawn(async move {
            // Dropped with this task, and the relays with it.
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                relays.spawn(async move {
                    // Its end closes both sockets, which is all there is to tell.
                    let _ended = relay(client, port, &seen).await;
                });
            }
        });
        Self { address, begun, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn begun(&self) -> Vec<[u8; 8]> {
        self.begun.lock().expect("nobody panics here").clone()
    }
}

async fn relay(mut client: TcpStream, port: u16, seen: &Mutex<Vec<[u8; 8]>>) -> std::io::Result<()> {
    let mut first = [0; 8];
    client.read_exact(&mut first).await?;
    seen.lock().expect("nobody panics here").push(first);
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(&first).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
