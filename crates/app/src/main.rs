//! `paystrata`: arguments, configuration, logs, then one command. Only this file exits, and only it prints.

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use paystrata_app::cli::{Cli, Command, ConfigView, DbAction, MerchantAction};
use paystrata_app::config::{Config, LoadOptions, reference_page};
use paystrata_app::ids::MerchantId;
use paystrata_app::ledger::verify::{Audit, verify};
use paystrata_app::merchants::store::add_merchant;
use paystrata_app::migrations::{MIGRATOR, ensure_partitions, status_page};
use paystrata_app::{observe, serve, telemetry};
use paystrata_db::plans::{
    AdviseOptions, Approval, CreateOptions, Fate, ReviewError, ReviewOptions, Workload, create_index,
    review_indexes,
};
use paystrata_db::{Db, NodeState, Session, Status};
use tokio::signal::unix::{SignalKind, signal};

const DAY: Duration = Duration::from_secs(86_400);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("start the runtime");
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            say_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Config { view: ConfigView::Reference } = cli.command {
        say(reference_page().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(LoadOptions::from_process(cli.config))?;
    match cli.command {
        Command::Config { .. } => say(&config.print_redacted()),
        Command::Serve => return serve_until_told(config).await,
        Command::Migrate { status: true } => return migration_status(&config).await,
        Command::Migrate { status: false } => migrate(&config).await?,
        Command::Verify => return audit(&config).await,
        Command::Db { action: DbAction::Advise { workload, create } } => {
            advise_indexes(&config, workload.as_deref(), approval(create)).await?;
        }
        Command::Db { action: DbAction::Review { days, drop } } => {
            return review(&config, days, approval(drop)).await;
        }
        Command::Merchant { action: MerchantAction::Add { name } } => add(&config, &name).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve_until_told(config: Config) -> anyhow::Result<ExitCode> {
    let telemetry = telemetry::start(&config.telemetry)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut told = pin!(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    // A start may wait for minutes, for the primary or while another node migrates. No payment was taken on yet.
    let started = tokio::select! {
        started = serve::Service::start(config) => Some(started?),
        () = &mut told => None,
    };
    if let Some(service) = started {
        told.await;
        service.stop().await;
    }
    telemetry.stop();
    Ok(ExitCode::SUCCESS)
}

async fn connect(config: &Config) -> anyhow::Result<Db> {
    let observer = observe::DatabaseObserver::new(&observe::monitor(&config.targets));
    serve::connect(&config.db, Arc::new(observer)).await
}

async fn session(config: &Config, name: &str) -> anyhow::Result<(Db, Session)> {
    let db = connect(config).await?;
    let session = db.session(name).await?;
    Ok((db, session))
}

/// Fails where list and database disagree, so that a script sees what a person reads.
async fn migration_status(config: &Config) -> anyhow::Result<ExitCode> {
    let (_db, session) = session(config, "migrate").await?;
    let status = MIGRATOR.status(&session).await?;
    say(status_page(&status).trim_end());
    let disagree = status.iter().any(|migration| migration.state.is_disagreement());
    Ok(if disagree { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn migrate(config: &Config) -> anyhow::Result<()> {
    let (_db, session) = session(config, "migrate").await?;
    let applied = MIGRATOR.up(&session).await?;
    for migration in &applied {
        say(&format!("applied {:04} {} in {:?}", migration.version, migration.name, migration.took));
    }
    ensure_partitions(&session, config.partitions.months_ahead.get()).await.context("make partitions")?;
    say(&format!("{} migrations applied, schema up to date", applied.len()));
    Ok(())
}

async fn audit(config: &Config) -> anyhow::Result<ExitCode> {
    let (_db, session) = session(config, "verify").await?;
    let Audit { accounts, payments, entries, kept, broken } =
        verify(&session).await.context("audit the ledger")?;
    for promise in kept {
        say(&format!("ok      {promise}"));
    }
    for finding in &broken {
        say(&format!("BROKEN  {}: {} findings", finding.promise, finding.count));
        for line in &finding.shown {
            say(&format!("          {line}"));
        }
    }
    let verdict = if broken.is_empty() { "verified" } else { "NOT verified" };
    say(&format!("{verdict}: {accounts} accounts, {payments} payments, {entries} entries"));
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn advise_indexes(config: &Config, file: Option<&Path>, approval: Approval) -> anyhow::Result<()> {
    let db = connect(config).await?;
    let workload = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            Workload::from_text(&text).with_context(|| format!("read the workload {}", file.display()))?
        }
        None => db.counted_workload().await.context("add up what the servers have counted")?.context(
            "no statements to weigh: pg_stat_statements is not installed in this database; install it or name a \
             file with --workload",
        )?,
    };
    hear_all(&db, config.db.connect_timeout).await;
    let advice = db.advise(&workload, &AdviseOptions::default()).await?;
    say(advice.to_string().trim_end());
    if approval == Approval::Given {
        let session = db.session("advise").await?;
        for advised in &advice.indexes {
            let saves_per_call = Some(advised.saves_per_call());
            let options = CreateOptions { approval, saves_per_call, ..CreateOptions::default() };
            let created = create_index(&session, &advised.index, &options).await;
            let created = created.with_context(|| format!("index {}", advised.index))?;
            say(&format!("{}: {created:?}", advised.index));
        }
    }
    Ok(())
}

/// Only a replica that has answered can be chosen to plan, and the primary is mostly known before it has.
async fn hear_all(db: &Db, limit: Duration) {
    let heard = |status: &Status| status.nodes.iter().all(|node| node.state != NodeState::Unknown);
    // Whoever is silent for so long is done without.
    let _heard = db.status_when(limit, heard).await;
}

/// Fails where an index should have been dropped and is not gone, so that a script sees what a person reads.
async fn review(config: &Config, days: u32, approval: Approval) -> anyhow::Result<ExitCode> {
    let db = connect(config).await?;
    let options = ReviewOptions { approval, age_min: DAY * days, ..ReviewOptions::default() };
    let review = review_indexes(&db, &options).await.inspect_err(|error| {
        if let ReviewError::Stopped { review, .. } = error {
            say(review.to_string().trim_end());
        }
    })?;
    say(review.to_string().trim_end());
    let is_stuck = review.indexes.iter().any(|index| index.fate == Fate::Stuck);
    Ok(if is_stuck { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn approval(told: bool) -> Approval {
    if told { Approval::Given } else { Approval::Withheld }
}

async fn add(config: &Config, name: &str) -> anyhow::Result<()> {
    let db = connect(config).await?;
    let id = MerchantId::new();
    // 256 random bits; only the digest is stored.
    let key = format!("sk_{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let connection = db.write().await?;
    add_merchant(&connection, id.0, name, &key, "first").await.context("add merchant")?;
    say(&format!("merchant {id}\nkey      {key}\nThe key is shown this once."));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command line speaks to its user on standard output")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "errors go to standard error")]
fn say_error(text: &str) {
    eprintln!("paystrata: {text}");
}
