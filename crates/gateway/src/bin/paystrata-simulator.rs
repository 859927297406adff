//! The gateway simulator as a program: serves until SIGTERM or SIGINT.
//! Says where it listens in one line on stdout, and nothing else.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use paystrata_gateway::simulator::{ByteOrderMark, Simulator, SimulatorConfig};
use tokio::signal::unix::{SignalKind, signal};

/// A faithful, fault-injecting Authorize.Net and VelocityPay, in memory. Moves no money.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The seed of random faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What every reply takes.
    #[arg(long, default_value_t = 5)]
    latency_ms: u64,
    /// How long after its capture a charge settles.
    #[arg(long, default_value_t = 86_400_000)]
    settle_after_ms: u64,
    /// The login that Authorize.Net accepts.
    #[arg(long, default_value = "simulator")]
    login: String,
    /// The transaction key that Authorize.Net accepts.
    #[arg(long, default_value = "simulator-key")]
    transaction_key: String,
    /// The bearer key that VelocityPay accepts.
    #[arg(long, default_value = "simulator-api-key")]
    api_key: String,
    /// Leave out the byte order mark that Authorize.Net's replies start with.
    #[arg(long)]
    no_byte_order_mark: bool,
    /// Print the bare port instead of the sentence.
    #[arg(long)]
    print_port: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "paystrata-simulator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let print_port = arguments.print_port;
    let simulator = Simulator::start(SimulatorConfig {
        listen: arguments.listen,
        seed: arguments.seed,
        latency: Duration::from_millis(arguments.latency_ms),
        settle_after: Duration::from_millis(arguments.settle_after_ms),
        byte_order_mark: if arguments.no_byte_order_mark {
            ByteOrderMark::Omitted
        } else {
            ByteOrderMark::Sent
        },
        login: arguments.login,
        transaction_key: arguments.transaction_key,
        api_key: arguments.api_key,
    })
    .await?;
    let mut stdout = io::stdout();
    if print_port {
        writeln!(stdout, "{}", simulator.address().port())?;
    } else {
        writeln!(stdout, "listening on {}", simulator.url())?;
    }
    stdout.flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.shutdown().await;
    Ok(())
}
