//! Two processes, one truth. This one starts itself again as a child; each has a first tier of its own, and the
//! child hears through Redis what this one voids. The store of both is a file.
//!
//! `REDIS_URL=redis://127.0.0.1:6379 cargo run -p paystrata-cache --example two_processes`

#![expect(clippy::print_stdout, reason = "an example shows what it does, and its child answers so")]

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::{env, error::Error, fs, time::Duration};

use paystrata_cache::{Cache, RedisOptions, RedisTier, Version};

/// Answers each line on its standard input, which names a file, with what the cache has of it.
async fn child(files: Cache<String, String>) -> Result<(), Box<dyn Error>> {
    // A node that is not connected yet hears nothing: until it does, it serves what it loaded, for `max_stale` at most.
    files.ready(Duration::from_secs(30)).await?;
    // Waiting for a line blocks this thread; the cache listens on others.
    for path in io::stdin().lines() {
        let path = path?;
        let read = path.clone();
        let entry = files.get_or_load_entry(&path, |_| async { fs::read_to_string(read).map(Some) }).await?;
        println!("{} from {:?}", entry.value.unwrap_or_default(), entry.origin);
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let files = Cache::builder("files").redis(&RedisTier::connect(&url, RedisOptions::default())?).build();
    if env::args().any(|argument| argument == "child") {
        return child(files).await;
    }
    let path =
        env::temp_dir().join(format!("paystrata-example-{}", std::process::id())).display().to_string();
    let mut command = Command::new(env::current_exe()?);
    let mut child = command.arg("child").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(mut ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else { return Ok(()) };
    let mut answers = BufReader::new(answers).lines();
    for version in 1..=3 {
        fs::write(&path, format!("version {version}"))?;
        let reach = files.invalidate_many([&path], Version(version)).await;
        println!("version {version} is written, and told: {reach:?}");
        let mut answer = String::new();
        while answer != format!("version {version} from Local") {
            writeln!(ask, "{path}")?;
            answer = answers.next().ok_or("the child has ended")??;
            println!("  the child reads {answer}");
        }
    }
    drop(ask);
    child.wait()?;
    Ok(fs::remove_file(path)?)
}
