//! `cargo xtask tidy`: what the compiler and clippy do not check. Arrows between packages and between the
//! modules of the app, lengths, names, first lines, unfinished places, and tests that documents name. Reads; never rewrites.

mod arrows;
mod census;
mod finding;
mod named;
mod packages;
mod paths;
mod ratchet;
mod shape;
mod tables;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;
use census::{Census, Names};
use finding::Finding;

const SOURCE_DIRECTORIES: [&str; 2] = ["crates", "xtask"];
const APP_SOURCE: &str = "crates/app/src/";

/// Runs the command: exit code 1 when a finding remains.
pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<i32> {
    if let Some(argument) = arguments.next()? {
        return Err(argument.unexpected().into());
    }
    let root = workspace::root()?;
    let mut findings = package_findings(&root)?;
    let files = source_files(&root)?;
    let modules = app_modules(&files);
    let mut census = Census::default();
    for path in &files {
        let text = read(&root, path)?;
        match parse(path, &text) {
            Ok(syntax) => {
                findings.extend(file_findings(path, &text, &syntax, &modules));
                census.read(path, &syntax);
            }
            Err(finding) => findings.push(finding),
        }
    }
    findings.extend(document_findings(&root, &files, &census.names())?);
    let ratchet = fs::read_to_string(root.join(ratchet::RATCHET_FILE)).unwrap_or_default();
    let remaining = ratchet::apply(findings, &ratchet);
    for finding in &remaining {
        println!("{finding}");
    }
    match remaining.len() {
        0 => println!("tidy: {} files, nothing to complain about", files.len()),
        count => println!("tidy: {count} findings in {} files", files.len()),
    }
    Ok(i32::from(!remaining.is_empty()))
}

fn read(root: &Path, path: &str) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))
}

fn package_findings(root: &Path) -> Result<Vec<Finding>> {
    let metadata = workspace::metadata()?;
    let read = |manifest: &str| fs::read_to_string(root.join(manifest)).unwrap_or_default();
    let arrows = packages::arrows(&metadata, &root.display().to_string(), read)?;
    let mut findings = packages::check(&arrows);
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |field: &str| package[field].as_str().unwrap_or_default();
        findings.extend(shape::check_package(text("manifest_path"), text("name")));
    }
    Ok(findings)
}

fn parse(path: &str, text: &str) -> Result<syn::File, Finding> {
    syn::parse_file(text).map_err(|error| {
        let line = error.span().start().line;
        let message = format!("cannot be parsed: {error}");
        Finding { path: path.to_owned(), line, rule: "syntax", message }
    })
}

fn file_findings(path: &str, text: &str, syntax: &syn::File, modules: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = shape::check(path, text, syntax);
    if let Some(file) = path.strip_prefix(APP_SOURCE) {
        findings.extend(arrows::check(file, syntax, modules));
    }
    findings
}

/// What documents say of the tests.
fn document_findings(root: &Path, files: &[String], tests: &Names) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in named::documents(root)? {
        findings.extend(named::check(&path, &read(root, &path)?, tests));
    }
    let sources = files.iter().filter(|path| tables::has_verbs(path));
    let sources = sources.map(|path| read(root, path)).collect::<Result<Vec<_>>>()?;
    for document in &tables::DOCUMENTS {
        findings.extend(document.check(&read(root, &document.path())?, tests, &sources));
    }
    Ok(findings)
}

/// The top-level modules of the app, from its files.
fn app_modules(files: &[String]) -> BTreeSet<String> {
    files
        .iter()
        .filter_map(|path| path.strip_prefix(APP_SOURCE))
        .filter_map(|file| paths::module_path(file).into_iter().next())
        .collect()
}

/// Every Rust file of the workspace, relative to its root, in order.
fn source_files(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = SOURCE_DIRECTORIES.iter().map(|name| root.join(name)).collect();
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let is_directory = entry.file_type()?.is_dir();
            if is_directory && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if !is_directory && name.ends_with(".rs") {
                files.push(path.strip_prefix(root)?.display().to_string());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{app_modules, file_findings, parse};

    #[test]
    fn modules_come_from_files_and_folders() {
        let files = ["crates/app/src/money.rs", "crates/app/src/engine/batch.rs", "crates/db/src/pool.rs"];
        let modules = app_modules(&files.map(str::to_owned));
        assert_eq!(modules.into_iter().collect::<Vec<_>>(), ["engine", "money"]);
    }

    #[test]
    fn file_that_does_not_parse_is_one_finding() {
        let parsed = parse("crates/db/src/pool.rs", "//! x\nfn f( {}\n");
        let Err(finding) = parsed else { panic!("a brace is missing") };
        assert_eq!((finding.rule, finding.line), ("syntax", 2));
    }

    #[test]
    fn arrows_are_judged_only_inside_the_app() {
        let modules = ["payments".to_owned()].into();
        let text = "//! x\nuse crate::payments::Payment;\n";
        let findings = |path: &str| {
            let syntax = parse(path, text).expect("the snippet parses");
            file_findings(path, text, &syntax, &modules).len()
        };
        assert_eq!(findings("crates/app/src/engine/batch.rs"), 1);
        assert_eq!(findings("crates/db/src/engine/batch.rs"), 0);
    }
}
