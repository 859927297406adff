//! The table of all settings: one file per subject, one section per TOML table, one row per setting.
//!
//! Refuses to read or check anything: rows are looked up here by the sources, the check and the page.

#[macro_use]
mod declare;
mod cache;
mod db;
mod engine;
mod gateways;
mod http;
mod operations;
mod payments;

pub use self::http::HttpConfig;
pub use cache::CacheConfig;
pub use db::DatabaseConfig;
pub use engine::EngineConfig;
pub use gateways::{AuthorizeNetConfig, GatewaysConfig, VelocityPayConfig};
pub use operations::{
    LogFormat, PartitionsConfig, Profile, SecurityConfig, StatsConfig, TargetsConfig, TelemetryConfig,
};
pub use payments::{FraudConfig, IdempotencyConfig, ResolverConfig};

pub(crate) use gateways::{AUTHORIZE_NET_ENDPOINT, VELOCITY_PAY_ENDPOINT};
pub(crate) use operations::PROFILE_KEY;

use super::setting::{Section, Setting};

/// Every section, in the order of the reference page and of the print.
pub(crate) const SECTIONS: &[&Section] = &[
    &operations::PROFILE,
    &HttpConfig::SECTION,
    &DatabaseConfig::SECTION,
    &CacheConfig::SECTION,
    &EngineConfig::SECTION,
    &AuthorizeNetConfig::SECTION,
    &VelocityPayConfig::SECTION,
    &ResolverConfig::SECTION,
    &FraudConfig::SECTION,
    &IdempotencyConfig::SECTION,
    &StatsConfig::SECTION,
    &PartitionsConfig::SECTION,
    &SecurityConfig::SECTION,
    &TelemetryConfig::SECTION,
    &TargetsConfig::SECTION,
];

/// A name further from every setting than this many edits gets no suggestion: it would be a guess.
const SUGGESTION_EDITS_MAX: usize = 5;

/// Every setting.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().flat_map(|section| section.settings)
}

/// The setting of this full name.
pub(crate) fn find(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key)
}

/// Whether some setting lies below this name.
pub(crate) fn is_section(key: &str) -> bool {
    all().any(|setting| setting.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// The setting whose name is nearest to this one, if any is near.
pub(crate) fn nearest(key: &str) -> Option<&'static Setting> {
    let (distance, setting) =
        all().map(|setting| (edits(key, setting.key), setting)).min_by_key(|(distance, _)| *distance)?;
    // At most a third of the name may differ, or two short names would always be alike.
    (distance <= SUGGESTION_EDITS_MAX.min(key.chars().count() / 3)).then_some(setting)
}

/// Levenshtein distance (Wagner and Fischer 1974), one row at a time.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, left) in left.chars().enumerate() {
        let mut diagonal = index;
        row[0] = index + 1;
        for (column, right) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
