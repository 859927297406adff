//! The arrows between packages, from `cargo metadata`: which package of ours may depend on which.

use anyhow::{Context, Result};
use serde_json::Value;

use super::finding::Finding;

const LEAVES: &[&str] = &["paystrata-cache", "paystrata-db", "paystrata-gateway", "paystrata-monitor"];

/// The layers: each package of ours, and the packages of ours it may name (in any kind of dependency).
const LAYERS: &[(&str, &[&str])] = &[
    ("paystrata-cache", &[]),
    ("paystrata-db", &[]),
    ("paystrata-gateway", &[]),
    ("paystrata-monitor", &[]),
    // The only place where two leaves meet.
    ("paystrata-app", LEAVES),
    (
        "paystrata-bench",
        &["paystrata-app", "paystrata-cache", "paystrata-db", "paystrata-gateway", "paystrata-monitor"],
    ),
    // Must compile in seconds on a fresh machine.
    ("xtask", &[]),
];

/// One dependency line of one package of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrow {
    pub(super) from: String,
    pub(super) to: String,
    /// The manifest that holds it.
    pub(super) manifest: String,
    pub(super) line: usize,
}

/// Every dependency of one of our packages on another (or itself, for its own features in tests).
pub(super) fn arrows(metadata: &Value, root: &str, read: impl Fn(&str) -> String) -> Result<Vec<Arrow>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut arrows = Vec::new();
    for package in packages {
        let from = package["name"].as_str().context("a package has a name")?;
        let absolute = package["manifest_path"].as_str().context("a package has a manifest")?;
        let manifest = absolute.strip_prefix(root).unwrap_or(absolute).trim_start_matches('/').to_owned();
        let text = read(&manifest);
        let dependencies = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
        for to in dependencies.iter().filter_map(|dependency| dependency["name"].as_str()) {
            if ours.contains(&to) {
                let line = text.lines().position(|line| line.trim_start().starts_with(to)).unwrap_or(0) + 1;
                let (from, to) = (from.to_owned(), to.to_owned());
                arrows.push(Arrow { from, to, manifest: manifest.clone(), line });
            }
        }
    }
    Ok(arrows)
}

/// The arrows that point where they may not.
pub(super) fn check(arrows: &[Arrow]) -> Vec<Finding> {
    let forbidden = arrows.iter().filter_map(|arrow| {
        let allowed = LAYERS.iter().find(|(from, _)| *from == arrow.from).map(|(_, allowed)| *allowed);
        let message = match allowed {
            _ if arrow.to == arrow.from => return None,
            None => format!("{} has no place in the layers: give it one in tidy/packages.rs", arrow.from),
            Some(allowed) if allowed.contains(&arrow.to.as_str()) => return None,
            Some([]) => format!("{} names no package of ours, not even {}", arrow.from, arrow.to),
            Some(_) => format!("{} may not depend on {}", arrow.from, arrow.to),
        };
        Some(Finding { path: arrow.manifest.clone(), line: arrow.line, rule: "layer", message })
    });
    forbidden.collect()
}

#[cfg(test)]
mod tests {
    use super::{Arrow, arrows, check};

    fn arrow(from: &str, to: &str) -> Arrow {
        Arrow { from: from.to_owned(), to: to.to_owned(), manifest: "Cargo.toml".to_owned(), line: 1 }
    }

    #[test]
    fn downward_arrows_are_allowed() {
        let allowed = [
            arrow("paystrata-app", "paystrata-cache"),
            arrow("paystrata-bench", "paystrata-app"),
            arrow("paystrata-bench", "paystrata-db"),
            arrow("paystrata-gateway", "paystrata-gateway"),
        ];
        assert_eq!(check(&allowed), vec![]);
    }

    #[test]
    fn every_other_arrow_is_a_finding() {
        for (from, to) in [
            ("paystrata-cache", "paystrata-db"),
            ("paystrata-gateway", "paystrata-app"),
            ("xtask", "paystrata-monitor"),
            ("paystrata-app", "paystrata-bench"),
            ("paystrata-app", "xtask"),
            ("paystrata-new", "paystrata-db"),
        ] {
            let findings = check(&[arrow(from, to)]);
            assert_eq!(findings.len(), 1, "{from} -> {to}");
            assert!(findings[0].message.contains(from), "{}", findings[0]);
        }
    }

    #[test]
    fn dependencies_of_any_kind_are_read_with_their_line() {
        let metadata = r#"{"packages": [
            {"name": "paystrata-db", "manifest_path": "/w/crates/db/Cargo.toml", "dependencies": [
                {"name": "serde", "kind": null}, {"name": "paystrata-cache", "kind": "dev"}]},
            {"name": "paystrata-cache", "manifest_path": "/w/crates/cache/Cargo.toml", "dependencies": []}]}"#;
        let text =
            |_: &str| "[dev-dependencies]\nserde = \"1\"\npaystrata-cache.workspace = true\n".to_owned();
        let metadata = serde_json::from_str(metadata).expect("JSON");
        let found = arrows(&metadata, "/w", text).expect("the metadata is well formed");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].manifest.as_str(), found[0].line), ("crates/db/Cargo.toml", 3));
    }
}
