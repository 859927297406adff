//! `cargo xtask prove`: clients pay between a few hot accounts, the service may be killed in the middle, and afterwards
//! every acknowledged payment must be there exactly once and the ledger whole. On servers of its own, which vanish with
//! their data if all of that holds, and leave the data where it does not. Judges by the verdicts of `paystrata-load` and
//! `paystrata verify`; measures nothing.

mod load;
mod options;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::load::{Generator, Load};
use self::options::{Kill, Options};
use crate::process::{self, Interrupted, port};
use crate::progress::{note, step, tool};
use crate::run::environment::{self, Programs};
use crate::run::site::{Children, Setting, Site};
use crate::services::Running;
use crate::services::ephemeral::Ephemeral;
use crate::setup;
use crate::workspace;

/// Below the ports that the kernel gives to clients: while the service is away, its clients knock at its port, and one that
/// was given that very port would connect to itself and keep the service from coming back.
const PORTS: std::ops::Range<u16> = 28_000..32_000;
/// For the accounts to be opened and the first payment to be acknowledged.
const FIRST_PAYMENT_LIMIT: Duration = Duration::from_secs(60);
/// After the last payment was sent, the generator asks for missing answers for up to 60 s, and a request takes up to 35 s.
const LAST_ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// One proof: who pays where.
#[derive(Debug)]
struct Proof<'run> {
    options: &'run Options,
    site: Site<'run>,
    generator: Generator,
}

/// How the load went.
#[derive(Debug)]
struct Paid {
    status: ExitStatus,
    /// What had been acknowledged when the service was killed.
    before_kill: Option<usize>,
}

/// What came of it.
#[derive(Debug)]
struct Findings {
    acknowledged: usize,
    before_kill: Option<usize>,
    /// What broke a promise, if anything did.
    contradictions: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: lexopt::Parser) -> Result<i32> {
    let options = options::parse(arguments)?;
    let parent = match &options.directory {
        Some(directory) => std::path::absolute(directory)?,
        None => workspace::root()?.join(workspace::RUNTIME_DIRECTORY),
    };
    setup::ensure(options.install)?;
    let (programs, program) = match &options.programs {
        Some(directory) => (environment::ready(directory)?, environment::ready_generator(directory)?),
        None => (environment::build(options.profile)?, environment::build_generator(options.profile)?),
    };
    process::check_stop()?;
    let mut services = Ephemeral::start(&parent, "prove")?;
    let found = prove(&options, &services, &programs, program);
    let (line, code) = match found {
        Err(error) if error.downcast_ref::<Interrupted>().is_some() => return Err(error),
        Err(error) => (format!("NOT PROVEN: {error:#}"), 1),
        Ok(findings) => conclude(&options, &findings),
    };
    if code != 0 {
        let kept = services.keep_data()?.display();
        let how = format!("`cargo xtask services up --dir {kept}` starts its servers");
        note(&format!("  note  the data stays in {kept}; {how}"));
    }
    // Before the closing line: stopping the servers may have something to say.
    drop(services);
    println!("{line}");
    Ok(code)
}

/// From a running service to a stopped one.
fn prove(options: &Options, services: &Ephemeral, programs: &Programs, program: PathBuf) -> Result<Findings> {
    let directory = services.directory();
    fs::create_dir_all(directory.join("logs")).context("create the log directory")?;
    let (port, operator_port) = free_ports()?;
    let site = Site { directory, home: directory, programs, port, operator_port };
    let generator = Generator { program, port, ledger: directory.join("acknowledged.txt") };
    let mut children = Children::default();
    let found = Proof { options, site, generator }.run(&services.running, &mut children);
    let stopped = children.stop();
    found.and_then(|findings| stopped.map(|()| findings))
}

/// Two ports that nobody listens on; where the looking begins differs from process to process.
fn free_ports() -> Result<(u16, u16)> {
    let length = u32::from(PORTS.end - PORTS.start);
    let skipped = usize::try_from(std::process::id() * 2 % length).context("it is a small number")?;
    let mut free = PORTS.cycle().skip(skipped).take(PORTS.len()).filter(|port| port::is_free(*port));
    free.next().zip(free.next()).with_context(|| format!("no two ports of {PORTS:?} are free"))
}

impl Proof<'_> {
    fn run(&self, running: &Running, children: &mut Children) -> Result<Findings> {
        let settings = self.site.start(running, children)?;
        let Paid { status, before_kill } = self.pay(&settings, children)?;
        let acknowledged = self.generator.acknowledged();
        let mut contradictions = Vec::new();
        if !status.success() {
            contradictions.push(format!("the load did not end well ({status}), see above"));
        }
        if before_kill.is_some_and(|before| acknowledged <= before) {
            contradictions.push("no payment was acknowledged after the service was killed".to_owned());
        }
        if !self.generator.check()?.success() {
            contradictions.push("not every acknowledged payment is there exactly once".to_owned());
        }
        let mut verify = Command::new(&self.site.programs.service);
        let verified = tool("run paystrata verify", verify.arg("verify").envs(settings))?;
        if !verified.success() {
            contradictions.push(format!("`paystrata verify` found fault ({verified})"));
        }
        Ok(Findings { acknowledged, before_kill, contradictions })
    }

    /// The load from its begin to its end.
    fn pay(&self, settings: &[Setting], children: &mut Children) -> Result<Paid> {
        let duration = Duration::from_secs(self.options.seconds.into());
        let mut load = self.generator.start(self.options)?;
        let begun = Instant::now();
        let first = begun + FIRST_PAYMENT_LIMIT;
        while self.generator.acknowledged() == 0 {
            if Instant::now() > first {
                bail!("no payment was acknowledged within {} s", FIRST_PAYMENT_LIMIT.as_secs());
            }
            watch(&mut load, children)?;
        }
        let mut before_kill = None;
        if self.options.kill == Kill::InTheMiddle {
            while begun.elapsed() < duration / 2 {
                watch(&mut load, children)?;
            }
            step("kill the service (SIGKILL)", || children.kill_service())?;
            before_kill = Some(self.generator.acknowledged());
            self.site.start_service("start the service again", settings, children)?;
        }
        loop {
            if let Some(status) = load.ended()? {
                return Ok(Paid { status, before_kill });
            }
            if begun.elapsed() > FIRST_PAYMENT_LIMIT + duration + LAST_ANSWER_LIMIT {
                bail!("the load generator does not end");
            }
            process::check_stop()?;
            children.check_service()?;
            thread::sleep(process::POLL);
        }
    }
}

/// A moment in which both go on.
fn watch(load: &mut Load, children: &mut Children) -> Result<()> {
    process::check_stop()?;
    children.check_service()?;
    if let Some(status) = load.ended()? {
        bail!("the load generator ended before its time ({status})");
    }
    thread::sleep(process::POLL);
    Ok(())
}

/// The closing line and the exit code.
fn conclude(options: &Options, findings: &Findings) -> (String, i32) {
    let Options { seconds, clients, accounts, .. } = options;
    let killed = match findings.before_kill {
        None => String::new(),
        Some(before) => format!(", the service killed after {before} payments and started again"),
    };
    let load = format!("{clients} clients on {accounts} accounts for {seconds} s{killed}");
    if findings.contradictions.is_empty() {
        let acknowledged = findings.acknowledged;
        return (
            format!(
                "PROVEN: {load}: {acknowledged} acknowledged, each there exactly once; the ledger is whole"
            ),
            0,
        );
    }
    (format!("NOT PROVEN: {load}: {}", findings.contradictions.join("; ")), 1)
}

#[cfg(test)]
mod tests {
    use super::{Findings, PORTS, conclude, free_ports, options};

    #[test]
    fn two_ports_are_found_where_no_client_gets_one() {
        let (one, other) = free_ports().expect("the range is wide");
        assert!(one != other && PORTS.contains(&one) && PORTS.contains(&other), "{one} {other}");
    }

    #[test]
    fn any_contradiction_is_in_the_last_line_and_in_the_exit_code() {
        let options = options::parse(lexopt::Parser::from_args(["--kill"])).expect("it is known");
        let mut findings = Findings { acknowledged: 9, before_kill: Some(4), contradictions: Vec::new() };
        let (line, code) = conclude(&options, &findings);
        assert_eq!(code, 0);
        assert!(
            line.starts_with("PROVEN: 64 clients on 10 accounts for 30 s, the service killed after 4"),
            "{line}"
        );
        findings.contradictions = vec!["this".to_owned(), "that".to_owned()];
        let (line, code) = conclude(&options, &findings);
        assert!(code == 1 && line.starts_with("NOT PROVEN") && line.ends_with("this; that"), "{line}");
    }
}
