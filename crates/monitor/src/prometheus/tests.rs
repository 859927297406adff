//! The exposition: one golden text, and a check of the grammar over hostile names and labels.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::monitor::Monitor;
use crate::outcome::Outcome;
use crate::registry::Registry;

fn exposition(monitor: &Monitor) -> String {
    let text = monitor.prometheus();
    let process = text.find("# HELP process_").unwrap_or(text.len());
    text[..process].to_owned()
}

#[test]
fn golden_exposition() {
    let monitor = Monitor::new();
    let hit = monitor.operation_labelled("cache.operation.duration", &[("tier", "l1"), ("result", "hit")]);
    hit.record(Duration::from_nanos(900), Outcome::Success);
    hit.record(Duration::from_micros(3), Outcome::Error);
    hit.record(Duration::from_secs(2), Outcome::Cancelled);
    monitor.threshold("cache.operation.duration", Duration::from_secs(1));
    hit.record(Duration::from_secs(2), Outcome::Success);
    monitor.threshold("never.registered", Duration::from_secs(1));
    monitor.counter("webhooks.sent", "Webhooks sent,\nby \\ all.").add(3);
    monitor.gauge_labelled("pool.idle", "Idle connections.", &[("node", "a\"\\\nb")]).set(-2.5);
    monitor.gauge_fn("pool.size", "Size.", || f64::INFINITY);
    assert_eq!(exposition(&monitor), include_str!("golden.txt"));
}

#[test]
fn process_figures_carry_their_conventional_names() {
    let process = ProcessFigures {
        cpu_seconds: 1.25,
        resident_bytes: 4_096,
        virtual_bytes: 8_192,
        threads: 3,
        start_seconds: 1_700_000_000.5,
        open_descriptors: Some(7),
    };
    let text = render(&Registry::default(), Some(&process));
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        "process_cpu_time_seconds_total 1.25",
        "process_memory_usage_bytes 4096",
        "process_memory_virtual_bytes 8192",
        "process_thread_count 3",
        "process_start_time_seconds 1700000000.5",
        "process_unix_file_descriptor_count 7",
    ];
    assert_eq!(samples, expected);
}

#[test]
fn of_two_instruments_with_one_exported_name_the_first_is_written() {
    let monitor = Monitor::new();
    monitor.gauge("a.b", "First.").set(1.0);
    monitor.gauge("a_b", "Second.").set(2.0);
    monitor.operation("c").record(Duration::from_micros(1), Outcome::Success);
    monitor.gauge("c_duration_seconds_count", "Would be taken for the histogram's.").set(3.0);
    let text = exposition(&monitor);
    assert!(text.contains("a_b 1\n") && !text.contains("a_b 2\n"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("c_duration_seconds_count")).count(), 1);
}

/// Reads a quoted value and gives what follows it.
fn skip_quoted(text: &str) -> Option<&str> {
    let mut characters = text.strip_prefix('"')?.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some(&text[at + 2..]),
            '\\' => {
                characters.next().filter(|(_, escaped)| matches!(escaped, '\\' | '"' | 'n'))?;
            }
            _ => {}
        }
    }
    None
}

fn skip_name(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|character: char| !character.is_ascii_alphanumeric() && character != '_')?;
    (end > 0 && !text.starts_with(|first: char| first.is_ascii_digit())).then(|| text.split_at(end))
}

/// The series a sample line is of, if the line follows the grammar.
fn parse_sample(line: &str) -> Option<&str> {
    let (_, mut rest) = skip_name(line)?;
    if rest.starts_with('{') {
        let mut labels = BTreeSet::new();
        while let Some(label) = rest.strip_prefix(['{', ',']) {
            let (name, value) = skip_name(label)?;
            labels.insert(name).then_some(())?;
            rest = skip_quoted(value.strip_prefix('=')?)?;
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.strip_prefix(' ')?;
    value.parse::<f64>().ok()?;
    Some(&line[..line.len() - rest.len()])
}

proptest! {
    #[test]
    fn whatever_the_names_and_labels_the_text_parses(
        names in prop::collection::vec(".{0,6}|a[._]b", 1..6),
        label_names in prop::collection::vec(".{0,4}|le|__a|x[.-]y", 1..4),
        value in ".{0,8}|[\"\\\\\n]{1,4}",
        help in ".{0,8}|[\\\\\n]{1,3}",
    ) {
        let leak = |text: &String| -> &'static str { Box::leak(text.clone().into_boxed_str()) };
        let monitor = Monitor::new();
        let labels: Vec<(&'static str, &str)> = label_names.iter().map(|name| (leak(name), &*value)).collect();
        for (position, name) in names.iter().enumerate() {
            let (name, help) = (leak(name), leak(&help));
            match position % 3 {
                0 => monitor.operation_labelled(name, &labels).record(Duration::from_millis(1), Outcome::Error),
                1 => monitor.counter_labelled(name, help, &labels).increment(),
                _ => monitor.gauge_labelled(name, help, &labels).set(f64::NAN),
            }
        }
        let text = exposition(&monitor);
        let mut series = BTreeSet::new();
        for line in text.split_terminator('\n') {
            if line.starts_with("# HELP ") || line.starts_with("# TYPE ") {
                continue;
            }
            let sample = parse_sample(line);
            prop_assert!(sample.is_some_and(|sample| series.insert(sample.to_owned())), "{line:?} in {text}");
        }
        prop_assert!(!series.is_empty());
    }
}
