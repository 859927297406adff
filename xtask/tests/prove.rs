//! `cargo xtask prove` as a user sees it: with a service that keeps its promises it ends well and leaves nothing, and it
//! finds a promise that was broken. Uses the programs that `cargo xtask test` has built, so that no test waits for a build.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Short, and open to all: the servers may run as another user. Removed when dropped, servers and all.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let directory = PathBuf::from(format!("/tmp/xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("it can be made");
        Place(directory)
    }

    /// A few clients for a moment; long enough for a first payment on a busy machine.
    fn prove(&self, programs: &Path) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args([
            "prove",
            "--no-install",
            "--kill",
            "--seconds",
            "6",
            "--clients",
            "8",
            "--accounts",
            "3",
        ]);
        command.arg("--dir").arg(&self.0).arg("--programs").arg(programs);
        command.stdin(Stdio::null()).output().expect("xtask starts")
    }

    /// What runs left here.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("it is there").flatten().map(|entry| entry.path());
        entries
            .filter(|path| {
                path.file_name().is_some_and(|name| name.display().to_string().starts_with("prove-"))
            })
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for directory in self.left() {
            let mut down = Command::new(env!("CARGO_BIN_EXE_xtask"));
            drop(down.args(["services", "down", "--dir"]).arg(directory).output());
        }
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Beside the tool, in the directory that the tests' own build filled.
fn programs() -> &'static Path {
    let programs = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().expect("a program has a directory");
    for program in ["paystrata", "paystrata-simulator", "paystrata-load"] {
        assert!(
            programs.join(program).is_file(),
            "{program} is not built; run the tests with `cargo xtask test`"
        );
    }
    programs
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_service_that_is_killed_in_the_middle_is_proven_and_nothing_stays() {
    let place = Place::new("prove");
    let output = place.prove(programs());
    let line = last_line(&output);
    assert_eq!(output.status.code(), Some(0), "{line}\n{}", complained(&output));
    let (_, after) = line.split_once("the service killed after ").expect("it says when it was killed");
    let numbers: Vec<u64> =
        after.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    assert!(line.starts_with("PROVEN: 8 clients on 3 accounts for 6 s"), "{line}");
    assert!(numbers.len() == 2 && 0 < numbers[0] && numbers[0] < numbers[1], "paid before and after: {line}");
    assert!(complained(&output).contains("ok  kill the service (SIGKILL)"), "{}", complained(&output));
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

/// Runs it with a generator whose list of acknowledged payments is changed by `tamper` before it is checked, and gives what
/// it said of that.
fn contradicted(place: &Place, tamper: &str) -> String {
    let around = place.0.join("programs");
    fs::create_dir(&around).expect("it can be made");
    for program in ["paystrata", "paystrata-simulator"] {
        symlink(programs().join(program), around.join(program)).expect("it can be linked");
    }
    let generator = programs().join("paystrata-load");
    let script = format!(
        "#!/bin/sh\n'{}' \"$@\" || exit\n[ \"$1\" = hot ] || exit 0\nwhile [ \"$1\" != --ledger ]; do shift; done\n{tamper}\n",
        generator.display()
    );
    let load = around.join("paystrata-load");
    fs::write(&load, script).expect("it can be written");
    fs::set_permissions(&load, fs::Permissions::from_mode(0o755)).expect("it is ours");

    let output = place.prove(&around);
    let line = last_line(&output);
    assert_eq!(output.status.code(), Some(1), "{line}\n{}", complained(&output));
    assert!(line.starts_with("NOT PROVEN") && line.ends_with("is there exactly once"), "{line}");
    let left = place.left();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(complained(&output).contains(&left[0].display().to_string()), "it says where");
    for file in ["acknowledged.txt", "logs/app.log", "logs/app.log.1"] {
        assert!(left[0].join(file).is_file(), "{file}");
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// As if the service had acknowledged it and forgotten it when it was killed.
#[test]
fn a_payment_that_was_acknowledged_and_is_gone_is_a_contradiction_and_the_data_stays() {
    let forged = "echo 'lost pay_01a1fdc566e37724a62ef62506765b6c succeeded' >> \"$2\"";
    let said = contradicted(&Place::new("prove-lost"), forged);
    assert!(said.contains("FAULT") && said.contains("pay_01a1fdc566e37724a62ef62506765b6c"), "{said}");
}

/// As if a key had paid twice: one of the two answers was never given.
#[test]
fn a_payment_that_nobody_was_told_of_is_a_contradiction() {
    let said = contradicted(&Place::new("prove-twice"), "sed -i '$d' \"$2\"");
    assert!(said.contains("FAULT the merchant has "), "{said}");
}
