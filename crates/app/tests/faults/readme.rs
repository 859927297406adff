//! The commands of the README, run as they are written against a service. What stands after `# ->` must be in the output
//! of the command above it.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use crate::ground::{Ground, LIMIT};

const BEGIN: &str = "<!-- tested -->";
const END: &str = "<!-- /tested -->";

/// A piece of shell and what its output must hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    shell: String,
    expected: Vec<String>,
}

/// The shell between each pair of marks, its blocks joined: variables of one serve the next.
fn marked_blocks(page: &str) -> Vec<String> {
    let parts = page.split(BEGIN).skip(1);
    parts.map(|part| shell_of(part.split_once(END).expect("every mark has its end").0)).collect()
}

fn shell_of(part: &str) -> String {
    let mut shell = String::new();
    let mut fences = part.split("\n```").skip(1);
    while let (Some(block), Some(_between)) = (fences.next(), fences.next()) {
        let (language, lines) = block.split_once('\n').expect("a block has lines");
        assert!(matches!(language.trim(), "sh" | "bash" | "shell"), "a tested block is shell: {language}");
        shell.push_str(lines);
        shell.push('\n');
    }
    shell
}

/// Cuts a block behind each group of expectations: a step is what ran since the last one.
fn steps(block: &str) -> Vec<Step> {
    let mut steps = vec![Step::default()];
    for line in block.lines() {
        let step = steps.last_mut().expect("there is always one");
        if let Some(expected) = line.trim().strip_prefix("# ->") {
            step.expected.push(expected.trim().to_owned());
        } else if step.expected.is_empty() {
            step.shell.push_str(line);
            step.shell.push('\n');
        } else {
            steps.push(Step { shell: format!("{line}\n"), expected: Vec::new() });
        }
    }
    steps
}

/// The block as one script that stops at the first failure and marks the end of each step's output.
fn script(steps: &[Step]) -> String {
    let parts: Vec<String> =
        steps.iter().map(|step| format!("{}printf '\\n\\036\\n'\n", step.shell)).collect();
    format!("set -euo pipefail\n{}", parts.concat())
}

#[test]
fn blocks_are_cut_where_expectations_stand() {
    let page = "a\n<!-- tested -->\n```sh\nx=1\necho $x\n# -> 1\n```\ntext\n```sh\necho b\n# -> b\n```\n<!-- /tested -->\n\
                ```sh\nno\n```\n";
    let blocks = marked_blocks(page);
    assert_eq!(blocks.len(), 1);
    let found = steps(&blocks[0]);
    let expected: Vec<_> = found.iter().map(|step| step.expected.join("|")).collect();
    assert_eq!(expected, ["1", "b"]);
    assert_eq!(found[0].shell, "x=1\necho $x\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_readme_do_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let page = std::fs::read_to_string(&path).expect("there is a README");
    let blocks = marked_blocks(&page);
    assert!(!blocks.is_empty(), "the README has no block between {BEGIN} marks");
    let ground = Ground::new().await;
    let node = ground.serve(&[]).await;
    for block in blocks {
        let steps = steps(&block);
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(script(&steps)).env("BASE", &node.caller.base);
        shell
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .current_dir(path.parent().expect("it lies in a folder"));
        let output = timeout(LIMIT, shell.output()).await.expect("the block ends").expect("run bash");
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}\n{block}\n{said}\n{complained}", output.status);
        for (step, said) in steps.iter().zip(said.split("\n\u{1e}\n")) {
            for expected in &step.expected {
                assert!(
                    said.contains(expected),
                    "{:?} is not in the output of\n{}\n{said}",
                    expected,
                    step.shell
                );
            }
        }
    }
    node.service.stop().await;
}
