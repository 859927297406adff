//! The settings that `run` hands to the service, as environment variables, and the programs it builds.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::options::Profile;
use crate::services::Running;
use crate::workspace;

/// The merchant key that the development profile, and no other, accepts.
pub(crate) const DEVELOPMENT_KEY: &str = "sk_dev_paystrata";

/// Payments of one account in a minute: the default is for real payers, and here load generators pay from a few accounts as
/// fast as the engine takes it.
const VELOCITY_COUNT_MAX: &str = "1000000";

const GENERATOR: &str = "paystrata-load";

/// The programs of one run.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) service: PathBuf,
    pub(crate) simulator: PathBuf,
}

impl Programs {
    fn in_directory(directory: &Path) -> Programs {
        Programs { service: directory.join("paystrata"), simulator: directory.join("paystrata-simulator") }
    }
}

/// The programs that stand ready in a directory, such as one that another build filled.
pub(crate) fn ready(directory: &Path) -> Result<Programs> {
    let directory = std::path::absolute(directory)?;
    let programs = Programs::in_directory(&directory);
    for program in [&programs.service, &programs.simulator] {
        if !program.is_file() {
            bail!("--programs {}: there is no {}", directory.display(), program.display());
        }
    }
    Ok(programs)
}

/// The load generator that stands ready in a directory.
pub(crate) fn ready_generator(directory: &Path) -> Result<PathBuf> {
    let generator = std::path::absolute(directory)?.join(GENERATOR);
    if !generator.is_file() {
        bail!("--programs {}: there is no {}", directory.display(), generator.display());
    }
    Ok(generator)
}

/// Builds the load generator. In a call of its own: the service is not to be built with what the benchmarks ask for.
pub(crate) fn build_generator(profile: Profile) -> Result<PathBuf> {
    let mut arguments = vec!["build", "-p", "paystrata-bench", "--bin", GENERATOR];
    if profile == Profile::Release {
        arguments.push("--release");
    }
    workspace::cargo_succeeds(&arguments)?;
    Ok(workspace::target_directory()?.join(profile.directory()).join(GENERATOR))
}

/// Builds service and simulator in one call of cargo: it resolves features once for both.
pub(crate) fn build(profile: Profile) -> Result<Programs> {
    let mut arguments = vec!["build", "-p", "paystrata-app", "-p", "paystrata-gateway"];
    arguments.extend(["--features", "paystrata-gateway/simulator", "--bins"]);
    if profile == Profile::Release {
        arguments.push("--release");
    }
    workspace::cargo_succeeds(&arguments)?;
    Ok(Programs::in_directory(&workspace::target_directory()?.join(profile.directory())))
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
        ("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX", VELOCITY_COUNT_MAX.to_owned()),
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
        assert_eq!(value("PAYSTRATA__FRAUD__VELOCITY_COUNT_MAX"), Some("1000000"));
        let endpoint = value("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT");
        assert_eq!(endpoint, Some("http://127.0.0.1:7000/xml/v1/request.api"));
        assert_eq!(value("PAYSTRATA__CACHE__REDIS_URL"), None);
    }
}
