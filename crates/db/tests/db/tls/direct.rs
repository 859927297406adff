//! TLS that begins without a question (`sslnegotiation=direct`): what the server has to choose before it is told anything.

use std::sync::{Arc, Mutex};

use paystrata_db::Db;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::secured::{Authority, SOUND, url_at};
use crate::support::{LIMIT, config};

/// Takes TLS without a question, keeps the first eight bytes that each client says in it, and leaves.
struct Direct {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    _answering: AbortOnDropHandle<()>,
}

impl Direct {
    /// Of what a client offers, it chooses one of `protocols`.
    async fn choosing(authority: &Authority, protocols: &[&[u8]]) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(settings(authority, protocols)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let heard_by_task = Arc::clone(&heard);
        let answering = tokio::spawn(async move {
            // One after the other: only a monitor asks while it has found nothing. One that is stopped may leave at any word.
            while let Ok((client, _)) = listener.accept().await {
                let mut said = Vec::new();
                if let Ok(secured) = acceptor.accept(client).await {
                    let _ended = secured.take(8).read_to_end(&mut said).await;
                }
                heard_by_task.lock().expect("nobody panics here").push(said);
            }
        });
        Self { port, heard, _answering: AbortOnDropHandle::new(answering) }
    }

    async fn refusal(&self, authority: &Authority) -> String {
        let roots = authority.path("authority.pem");
        let words = format!("sslmode=verify-full&sslrootcert={roots}&sslnegotiation=direct");
        let refused = Db::connect(config(&url_at(self.port, "pay:s3cret", &words))).await;
        refused.expect_err("it is no server").to_string()
    }

    /// What the first clients have said, once `wanted` is true of it.
    async fn heard(&self, wanted: impl Fn(&[Vec<u8>]) -> bool) -> Vec<Vec<u8>> {
        let heard_so_far = || self.heard.lock().expect("nobody panics here").clone();
        let heard = async {
            while !wanted(&heard_so_far()) {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, heard).await.is_ok(), "{:?}", heard_so_far());
        heard_so_far()
    }
}

fn settings(authority: &Authority, protocols: &[&[u8]]) -> ServerConfig {
    let read = |file: &str| std::fs::read(authority.path(file)).expect("read what was issued");
    let chain = CertificateDer::pem_slice_iter(&read("server.pem")).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).expect("a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has what both need");
    let mut settings = builder
        .with_no_client_auth()
        .with_single_cert(chain.expect("certificates"), key)
        .expect("they belong together");
    settings.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_chooses_no_protocol_is_not_trusted_and_told_nothing() {
    const NONE: &[&[u8]] = &[];
    const ANOTHER: &[&[u8]] = &[b"http/1.1"];
    let authority = Authority::new("authority");
    authority.issue("server", SOUND);
    // The second one refuses what it does not know itself.
    for protocols in [NONE, ANOTHER] {
        let server = Direct::choosing(&authority, protocols).await;
        let refused = server.refusal(&authority).await;
        let cause = "is not trusted: it does not choose the protocol of PostgreSQL (ALPN)";
        assert!(refused.contains(cause), "{refused}");
        let heard = server.heard(|heard| !heard.is_empty()).await;
        assert!(heard.iter().all(Vec::is_empty), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_chooses_the_protocol_is_sent_the_login() {
    let authority = Authority::new("authority");
    authority.issue("server", SOUND);
    let server = Direct::choosing(&authority, &[b"h2", b"postgresql"]).await;
    let refused = server.refusal(&authority).await;
    assert!(!refused.contains("is not trusted"), "{refused}");
    // A length, and the version of the protocol.
    server.heard(|heard| heard.iter().any(|said| said.ends_with(&[0, 3, 0, 0]))).await;
}
