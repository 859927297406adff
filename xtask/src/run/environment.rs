//! The settings that `run` hands to the service, as environment variables, and the programs it builds.

use std::path::PathBuf;

use anyhow::Result;

use super::options::Profile;
use crate::services::Running;
use crate::workspace;

/// The merchant key that the development profile, and no other, accepts.
pub(super) const DEVELOPMENT_KEY: &str = "sk_dev_paystrata";

/// The programs of one run.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) service: PathBuf,
    pub(crate) simulator: PathBuf,
}

/// Builds service and simulator in one call of cargo: it resolves features once for both.
pub(crate) fn build(profile: Profile) -> Result<Programs> {
    let mut arguments = vec!["build", "-p", "paystrata-app", "-p", "paystrata-gateway"];
    arguments.extend(["--features", "paystrata-gateway/simulator", "--bins"]);
    if profile == Profile::Release {
        arguments.push("--release");
    }
    workspace::cargo_succeeds(&arguments)?;
    let directory = workspace::target_directory()?.join(profile.directory());
    Ok(Programs { service: directory.join("paystrata"), simulator: directory.join("paystrata-simulator") })
}

/// Everything the service is told.
pub(super) fn settings(
    services: &Running,
    ports: (u16, u16),
    simulator_port: u16,
) -> Vec<(&'static str, String)> {
    let (port, operator_port) = ports;
    let simulator = format!("http://127.0.0.1:{simulator_port}");
    let mut settings = services.service_environment();
    settings.extend([
        ("PAYSTRATA__PROFILE", "development".to_owned()),
        ("PAYSTRATA__HTTP__LISTEN", format!("127.0.0.1:{port}")),
        ("PAYSTRATA__HTTP__OPERATOR_LISTEN", format!("127.0.0.1:{operator_port}")),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT", format!("{simulator}/xml/v1/request.api")),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", format!("{simulator}/velocity")),
    ]);
    settings
}

/// What is printed once the service is ready.
pub(super) fn greeting(port: u16, operator_port: u16, simulator_port: u16) -> String {
    format!(
        r#"
Paystrata is ready.
  API        http://127.0.0.1:{port}
  operator   http://127.0.0.1:{operator_port}            (/metrics, /readyz, /v1/performance/metrics)
  simulator  http://127.0.0.1:{simulator_port}            (Authorize.Net and VelocityPay)
  key        {DEVELOPMENT_KEY}

Make a payment (paste all of it):
  API=http://127.0.0.1:{port}; AUTH='Authorization: Bearer {DEVELOPMENT_KEY}'; JSON='Content-Type: application/json'
  account() {{ curl -s $API/v1/accounts -H "$AUTH" -H "$JSON" -H "Idempotency-Key: $1-$(date +%s)" -d "$2" | grep -o 'acc_[0-9A-Za-z-]*' | head -n 1; }}
  FROM=$(account payer '{{"currency":"USD","opening_balance":100000}}'); TO=$(account payee '{{"currency":"USD"}}')
  curl -si $API/v1/payments -H "$AUTH" -H "$JSON" -H "Idempotency-Key: payment-$(date +%s)" -d "{{\"from\":\"$FROM\",\"to\":\"$TO\",\"amount\":1250,\"currency\":\"USD\"}}"

Ctrl-C stops everything; the data stays for the next start."#
    )
}

#[cfg(test)]
mod tests {
    use super::{Running, settings};
    use crate::services::state::Instance;

    #[test]
    fn service_is_told_where_everything_is() {
        let primary = Some(Instance { port: 5433, process: None });
        let running = Running { primary, ..Running::default() };
        let settings = settings(&running, (8080, 9100), 7000);
        let value = |name| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
        assert_eq!(value("PAYSTRATA__PROFILE"), Some("development"));
        assert_eq!(value("PAYSTRATA__DB__PRIMARY_URL"), Some("postgres://postgres@127.0.0.1:5433/postgres"));
        assert_eq!(value("PAYSTRATA__HTTP__OPERATOR_LISTEN"), Some("127.0.0.1:9100"));
        let endpoint = value("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT");
        assert_eq!(endpoint, Some("http://127.0.0.1:7000/xml/v1/request.api"));
        assert_eq!(value("PAYSTRATA__CACHE__REDIS_URL"), None);
    }
}
