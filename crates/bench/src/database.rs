//! A database that lives as long as one suite, and connection settings as text. Knows no table.

use anyhow::Context as _;
use tokio_postgres::NoTls;
use tokio_postgres::config::Host;

/// Runs statements that stand outside any transaction, on a connection of their own.
pub(crate) async fn administer(server: &tokio_postgres::Config, statements: &[String]) -> anyhow::Result<()> {
    let (client, connection) = server.connect(NoTls).await.context("connect to the server")?;
    let connection = tokio::spawn(connection);
    for statement in statements {
        client.batch_execute(statement).await.with_context(|| format!("run {statement}"))?;
    }
    drop(client);
    connection.await?.context("close the connection")
}

/// Drops what a suite stood on, whatever came of the suite: no database may outlive it. The suite's own error is the one told.
pub(crate) async fn then_cleared<T>(
    outcome: anyhow::Result<T>,
    clear: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<T> {
    let cleared = clear.await.context("drop the database of the suite");
    let value = outcome?;
    cleared?;
    Ok(value)
}

/// The settings as libpq's `key='value'` text.
pub(crate) fn connection_text(settings: &tokio_postgres::Config) -> anyhow::Result<String> {
    let host = match settings.get_hosts() {
        [Host::Tcp(name)] => name.clone(),
        [Host::Unix(folder)] => folder.display().to_string(),
        hosts => anyhow::bail!("the connection URL must name one host, not {}", hosts.len()),
    };
    let port = settings.get_ports().first().copied().unwrap_or(5432).to_string();
    let password = settings.get_password().map(String::from_utf8_lossy);
    let parts = [
        ("host", Some(host.as_str())),
        ("port", Some(port.as_str())),
        ("user", settings.get_user()),
        ("password", password.as_deref()),
        ("dbname", settings.get_dbname()),
    ];
    let quoted = parts.into_iter().filter_map(|(key, value)| {
        value.map(|value| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")))
    });
    Ok(quoted.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_text_leads_back_to_the_same_settings() {
        let settings: tokio_postgres::Config =
            "postgres://us%27er:pa%5Css@localhost:5433/some".parse().unwrap();
        let back: tokio_postgres::Config = connection_text(&settings).unwrap().parse().unwrap();
        assert_eq!(back.get_user(), Some("us'er"));
        assert_eq!(back.get_password(), Some(b"pa\\ss".as_slice()));
        assert_eq!((back.get_ports(), back.get_dbname()), ([5433].as_slice(), Some("some")));
    }
}
