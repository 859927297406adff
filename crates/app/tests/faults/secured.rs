//! TLS between the service and PostgreSQL: a database that takes nothing else, and one whose certificate is by nobody that the
//! service trusts. Needs `openssl` in the path.

use std::path::PathBuf;
use std::process::{Command, Output};

use paystrata_db::Statement;
use tempfile::TempDir;

use crate::binary::paystrata;
use crate::cluster::{Cluster, run};
use crate::ground::Ground;

/// Of the open connections to this database, how many are over TLS, and how many are not.
static CONNECTIONS: Statement = Statement::new(
    "SELECT count(*) FILTER (WHERE s.ssl), count(*) FILTER (WHERE NOT s.ssl)
       FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'client backend'",
    &[],
);

/// Everything that `openssl` is told: none of the system's settings count.
const SETTINGS: &str = "\
[req]
distinguished_name = subject
prompt = no
[subject]
[authority]
basicConstraints = critical,CA:TRUE
[here]
basicConstraints = CA:FALSE
subjectAltName = IP:127.0.0.1
";

/// An elliptic key, which is made at once.
const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// An authority, and a certificate by it for this machine, in a folder that goes with it.
struct Authority(TempDir);

impl Authority {
    fn new(name: &str) -> Self {
        let authority = Self(tempfile::tempdir().expect("make a folder"));
        std::fs::write(authority.path("settings"), SETTINGS).expect("write the settings");
        authority.openssl(&format!(
            "req -config settings -x509 -extensions authority {NEW_KEY} -subj /CN={name} -days 3650 \
             -keyout authority.key -out authority.pem"
        ));
        authority.openssl(&format!(
            "req -config settings -new {NEW_KEY} -subj /CN=server -keyout server.key -out server.csr"
        ));
        authority.openssl(
            "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 3650 \
             -extfile settings -extensions here -out server.pem",
        );
        authority
    }

    fn openssl(&self, words: &str) {
        run(Command::new("openssl").args(words.split(' ')).current_dir(self.0.path()));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The URL of a server that this authority alone vouches for.
    fn trusted(&self, url: &str) -> String {
        format!("{url}?sslmode=verify-full&sslrootcert={}", self.path("authority.pem").display())
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_pays_on_a_database_that_takes_nobody_without_tls() {
    let authority = Authority::new("authority");
    let cluster = Cluster::start_over_tls(&authority.path("server.pem"), &authority.path("server.key"));
    let ground = Ground::on(&authority.trusted(&cluster.primary_url()), "").await;
    let node = ground.serve(&[]).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    node.caller.pay(&accounts[0], &accounts[1], 1).await;
    assert_eq!(node.caller.posted(&accounts[1]).await, 1_001);
    let connection = node.service.app.db.write().await.expect("a connection");
    let counted = connection.query_one(&CONNECTIONS, &[]).await.expect("count connections");
    let (secured, in_clear): (i64, i64) = (counted.get(0), counted.get(1));
    // The monitor's, a lane's and this one at least.
    assert!(secured >= 3 && in_clear == 0, "{secured} {in_clear}");
    drop(connection);
    ground.verify().await;
    node.service.stop().await;
    for arguments in [&["migrate", "--status"][..], &["verify"], &["db", "review"]] {
        let ended = paystrata(&ground.settings(&[]), arguments).await;
        assert!(ended.status.success(), "{arguments:?}: {}", said(&ended));
    }
}

#[tokio::test]
async fn a_database_that_nobody_vouches_for_is_not_spoken_to_and_that_is_said() {
    let (authority, another) = (Authority::new("authority"), Authority::new("another"));
    let cluster = Cluster::start_over_tls(&authority.path("server.pem"), &authority.path("server.key"));
    let ground = Ground::on(&another.trusted(&cluster.primary_url()), "").await;
    let ended = paystrata(&ground.settings(&[]), &["migrate", "--status"]).await;
    let told = said(&ended);
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("its certificate is by no authority that is trusted"), "{told}");
    let missing = another.path("missing.pem").display().to_string();
    let unread = format!("{}?sslmode=verify-full&sslrootcert={missing}", cluster.primary_url());
    let ended = paystrata(&ground.settings(&[("DB__PRIMARY_URL", &unread)]), &["migrate", "--status"]).await;
    let told = said(&ended);
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("db.primary_url: ") && told.contains("sslrootcert"), "{told}");
}
