//! A stage for tests: the whole service in process, on a database of its own, with a simulator as its gateways. Needs
//! the services that `cargo xtask test` starts, and fails loudly without them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use paystrata_app::config::{Config, LoadOptions};
use paystrata_app::serve::Service;
use paystrata_gateway::simulator::{Simulator, SimulatorConfig};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio_postgres::NoTls;

/// The key of the merchant that the development profile makes.
pub(crate) const KEY: &str = "sk_dev_paystrata";

/// The address of a service that `cargo xtask test` started.
pub(crate) fn service_url(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run the tests with `cargo xtask test`"))
}

/// A new database on the test primary; its URL there and on the replica.
pub(crate) async fn new_database() -> (String, String) {
    let (primary, replica) =
        (service_url("PAYSTRATA_TEST_PRIMARY_URL"), service_url("PAYSTRATA_TEST_REPLICA_URL"));
    let name = format!("app_{}", uuid::Uuid::now_v7().simple());
    let (client, connection) =
        tokio_postgres::connect(&primary, NoTls).await.expect("connect to the test primary");
    tokio::spawn(connection);
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("create a database");
    let on = |url: &str| format!("{}/{name}", url.rsplit_once('/').expect("a URL with a database").0);
    (on(&primary), on(&replica))
}

/// What a service is started with: settings by their full environment names.
pub(crate) type Settings = BTreeMap<String, String>;

/// The settings of a test service on these databases, with these gateways.
pub(crate) fn settings(primary: &str, replica: &str, simulator_url: &str) -> Settings {
    let redis = service_url("PAYSTRATA_TEST_REDIS_URL");
    [
        ("PAYSTRATA__PROFILE", "development"),
        ("PAYSTRATA__HTTP__LISTEN", "127.0.0.1:0"),
        ("PAYSTRATA__HTTP__OPERATOR_LISTEN", "127.0.0.1:0"),
        ("PAYSTRATA__DB__PRIMARY_URL", primary),
        ("PAYSTRATA__DB__REPLICA_URLS", replica),
        ("PAYSTRATA__DB__POOL_SIZE_MAX", "4"),
        ("PAYSTRATA__CACHE__REDIS_URL", &redis),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT", &format!("{simulator_url}/xml/v1/request.api")),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "1500"),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", &format!("{simulator_url}/velocity")),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__TIMEOUT_MS", "1500"),
        // Crowds of clients on a few accounts are what many tests are made of.
        ("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX", "1000000"),
        ("PAYSTRATA__RESOLVER__INTERVAL_MS", "100"),
        ("PAYSTRATA__RESOLVER__NOT_FOUND_AFTER_MS", "500"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// A running service with what it stands on.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The service.
    pub(crate) service: Service,
    /// Its gateways.
    pub(crate) simulator: Simulator,
    /// The database on the primary.
    pub(crate) primary_url: String,
    client: reqwest::Client,
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Headers, as text.
    pub(crate) headers: BTreeMap<String, String>,
    /// Exact body.
    pub(crate) bytes: Vec<u8>,
}

impl Reply {
    /// The body as JSON; null when there is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    async fn read(response: Response) -> Self {
        let status = response.status();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
            .collect();
        Self { status, headers, bytes: response.bytes().await.expect("read the answer").to_vec() }
    }
}

impl Stage {
    /// With the settings of a test.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Without caches: what is repeated is asked of the database again, and not of this process's memory.
    pub(crate) async fn start_uncached() -> Self {
        Self::start_with(&[("PAYSTRATA__CACHE__ENABLED", "false")]).await
    }

    /// With some settings changed.
    pub(crate) async fn start_with(changes: &[(&str, &str)]) -> Self {
        let (primary, replica) = new_database().await;
        let simulator = Simulator::start(SimulatorConfig::default()).await.expect("start the simulator");
        let mut settings = settings(&primary, &replica, &simulator.url());
        settings.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let service = start_service(settings).await;
        Self::of(service, simulator, primary)
    }

    /// Around a service that was started otherwise.
    pub(crate) fn of(service: Service, simulator: Simulator, primary_url: String) -> Self {
        Self { service, simulator, primary_url, client: client() }
    }

    /// The base URL of the public listener.
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.service.address)
    }

    /// `GET`, with headers.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, path, headers, None).await
    }

    /// `POST` under an idempotency key.
    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[("idempotency-key", key)], Some(body.to_string().into_bytes())).await
    }

    /// Any request of the development merchant.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Reply {
        let mut request = self.client.request(method, format!("{}{path}", self.base())).bearer_auth(KEY);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        Reply::read(request.send().await.expect("send a request")).await
    }

    /// Opens an account and gives its id.
    pub(crate) async fn account(&self, currency: &str, opening_balance: i64) -> String {
        let body = serde_json::json!({"currency": currency, "opening_balance": opening_balance});
        let key = uuid::Uuid::now_v7().to_string();
        let reply = self.post("/v1/accounts", &key, &body).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.json());
        reply.json()["id"].as_str().expect("an account has an id").to_owned()
    }

    /// `{posted, held, available}` of an account, by its last write.
    pub(crate) async fn balance(&self, account: &str) -> Value {
        self.get(&format!("/v1/accounts/{account}"), &[]).await.json()["balance"].clone()
    }

    /// Asserts that the ledger holds every promise of `paystrata verify`.
    pub(crate) async fn verify(&self) {
        let session = self.service.app.db.session("verify").await.expect("open a session");
        let audit = paystrata_app::ledger::verify::verify(&session).await.expect("audit the ledger");
        assert!(audit.broken.is_empty(), "{:#?}", audit.broken);
    }
}

/// Starts a service in this process.
pub(crate) async fn start_service(settings: Settings) -> Service {
    let options = LoadOptions { file: None, directory: PathBuf::from("/nonexistent"), environment: settings };
    let config = Config::load(options).expect("test settings are valid");
    Service::start(config).await.expect("start the service")
}

/// An HTTP client without proxies.
pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("build an HTTP client")
}

/// What a person enters at the card gateway past every service; as text, because the order of fields counts there.
pub(crate) async fn by_hand(simulator: &Simulator, request: &str, content: &str) {
    let login = r#""merchantAuthentication":{"name":"simulator","transactionKey":"simulator-key"}"#;
    let body = format!(r#"{{"{request}":{{{login},{content}}}}}"#);
    let url = simulator.authorize_net_endpoint();
    let reply = client().post(url).body(body).send().await.expect("reach the simulator");
    let text = reply.text().await.expect("read the simulator's answer");
    assert!(text.contains(r#""resultCode":"Ok""#), "{text}");
}

/// Voids a transaction by hand.
pub(crate) async fn void_by_hand(simulator: &Simulator, transaction: &str) {
    let content = format!(
        r#""transactionRequest":{{"transactionType":"voidTransaction","refTransId":"{transaction}"}}"#
    );
    by_hand(simulator, "createTransactionRequest", &content).await;
}
