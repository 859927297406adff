//! The systemd unit in `deploy`: what it names is what the steps at its head put there, and its times fit the settings.

use std::fs;
use std::path::Path;

use crate::place::{DEVELOPMENT, PRIMARY, load};

/// The text of a file, by its path from the root of the repository.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values of a key of the unit.
fn values<'unit>(unit: &'unit str, key: &str) -> Vec<&'unit str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_pages_the_unit_names_are_the_ones_its_steps_install() {
    let unit = read("deploy/paystrata.service");
    let documents = values(&unit, "Documentation");
    assert!(!documents.is_empty());
    for document in documents {
        let path = document.strip_prefix("file:").expect("a file");
        let (directory, name) = path.rsplit_once('/').expect("a path");
        let source = format!("docs/{name}");
        let installs = |line: &str| {
            line.starts_with("#   install ") && line.contains(directory) && line.contains(&source)
        };
        assert!(unit.lines().any(installs), "no step installs {path}");
        assert!(!read(&source).is_empty());
    }
}

#[test]
fn the_unit_stops_later_than_the_service_drains() {
    let unit = read("deploy/paystrata.service");
    let stop_seconds: u64 = values(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop_seconds > load(&[DEVELOPMENT, PRIMARY]).unwrap().http.drain_timeout.as_secs());
}
