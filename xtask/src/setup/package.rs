//! The Debian packages that bring the services: which version apt would install, and what a person types where there
//! is none or one that is too old. Asks apt; installs nothing, and adds no source of packages.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::find::{HYPOPG_MIN, MEMCACHED_MIN, OPENSSL_MIN, PGBOUNCER_MIN, POSTGRES_MIN, REDIS_MIN};
use super::release::Release;
use crate::process;

const POLICY_LIMIT: Duration = Duration::from_secs(30);
/// The script that the PostgreSQL project publishes for older systems; it stands in `postgresql-common`.
const NEWER_POSTGRES: &str = "sudo apt-get install -y postgresql-common ca-certificates \
                              && sudo /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y";

/// A package that can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Package {
    Postgres,
    Redis,
    Memcached,
    PgBouncer,
    /// For the PostgreSQL of this major version.
    HypoPg(u32),
    OpenSsl,
}

/// What apt would install under a package's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Serves,
    TooOld { release: Release },
    Nothing,
}

impl Package {
    /// Its name on Debian-like systems.
    pub(super) fn name(self) -> String {
        match self {
            Package::Postgres => "postgresql".to_owned(),
            Package::Redis => "redis-server".to_owned(),
            Package::Memcached => "memcached".to_owned(),
            Package::PgBouncer => "pgbouncer".to_owned(),
            Package::HypoPg(major) => format!("postgresql-{major}-hypopg"),
            Package::OpenSsl => "openssl".to_owned(),
        }
    }

    fn name_elsewhere(self) -> String {
        match self {
            Package::Postgres => "postgresql-server".to_owned(),
            Package::Redis => "redis".to_owned(),
            Package::Memcached => "memcached".to_owned(),
            Package::PgBouncer => "pgbouncer".to_owned(),
            Package::HypoPg(major) => format!("hypopg_{major}"),
            Package::OpenSsl => "openssl".to_owned(),
        }
    }

    fn least(self) -> Release {
        match self {
            Package::Postgres => POSTGRES_MIN,
            Package::Redis => REDIS_MIN,
            Package::Memcached => MEMCACHED_MIN,
            Package::PgBouncer => PGBOUNCER_MIN,
            Package::HypoPg(_) => HYPOPG_MIN,
            Package::OpenSsl => OPENSSL_MIN,
        }
    }

    /// What apt would install now, by the package lists it has.
    pub(super) fn offer(self) -> Offer {
        let asked = process::succeed(
            // In another language the word to look for is another.
            Command::new("apt-cache").env("LC_ALL", "C").args(["policy", &self.name()]),
            POLICY_LIMIT,
        );
        asked.map_or(Offer::Nothing, |said| self.judge(&said))
    }

    /// Reads the answer of `apt-cache policy`.
    fn judge(self, said: &str) -> Offer {
        let candidate = said.lines().find_map(|line| line.trim_start().strip_prefix("Candidate: "));
        match candidate.and_then(release) {
            None => Offer::Nothing,
            Some(release) if release < self.least() => Offer::TooOld { release },
            Some(_) => Offer::Serves,
        }
    }

    /// Why an offer does not serve, and what does.
    pub(super) fn complaint(self, offer: Offer) -> Option<String> {
        let (name, least) = (self.name(), self.least());
        let offered = match offer {
            Offer::Serves => return None,
            Offer::TooOld { release } => format!("version {release} of {name}"),
            Offer::Nothing => format!("no {name}"),
        };
        let instead = match self {
            Package::Postgres => "add the packages of the PostgreSQL project (apt.postgresql.org)",
            Package::Redis => {
                "add the packages of the Redis project (packages.redis.io), or name one with REDIS_SERVER"
            }
            Package::Memcached => "name one with MEMCACHED",
            Package::PgBouncer => "name one with PGBOUNCER",
            Package::HypoPg(_) => "add the packages of the PostgreSQL project (apt.postgresql.org)",
            Package::OpenSsl => "put one on PATH",
        };
        Some(format!("apt offers {offered}, and {least} or later is needed: {instead}"))
    }
}

/// The command for a person to type on this machine.
pub(super) fn by_hand(packages: &[Package]) -> String {
    if Path::new("/usr/bin/apt-get").is_file() {
        let offers: Vec<(Package, Offer)> = packages.iter().map(|one| (*one, one.offer())).collect();
        return with_apt(&offers);
    }
    let names: Vec<String> = packages.iter().map(|one| one.name_elsewhere()).collect();
    format!("your package manager, for example: sudo dnf install {}", names.join(" "))
}

/// Nothing offered may only mean that the package lists were never fetched: fetching them comes first.
fn with_apt(offers: &[(Package, Offer)]) -> String {
    let is_old = |(package, offer): &&(Package, Offer)| {
        *package == Package::Postgres && matches!(offer, Offer::TooOld { .. })
    };
    let newer = offers.iter().find(is_old).map(|_| NEWER_POSTGRES);
    let names: Vec<String> = offers.iter().map(|(package, _)| package.name()).collect();
    let install = format!("sudo apt-get install -y {}", names.join(" "));
    let steps: Vec<&str> =
        ["sudo apt-get update"].into_iter().chain(newer).chain([install.as_str()]).collect();
    steps.join(" && ")
}

/// The release in a Debian version, behind its epoch: 7.0.15 of `5:7.0.15-1~deb12u10`, 14 of `14+238`.
fn release(version: &str) -> Option<Release> {
    let upstream = match version.split_once(':') {
        Some((_epoch, upstream)) => upstream,
        None => version,
    };
    Release::at_start(upstream)
}

#[cfg(test)]
mod tests {
    use super::{Offer, Package, with_apt};
    use crate::setup::release::Release;

    fn too_old(numbers: [u32; 3]) -> Offer {
        Offer::TooOld { release: Release(numbers) }
    }

    fn policy(candidate: &str) -> String {
        format!("postgresql:\n  Installed: (none)\n  Candidate: {candidate}\n  Version table:\n     99 500\n")
    }

    #[test]
    fn offer_is_judged_by_its_version() {
        for (package, candidate, expected) in [
            (Package::Postgres, "15+248+deb12u2", Offer::Serves),
            (Package::Postgres, "18+288.pgdg110+1", Offer::Serves),
            (Package::Postgres, "14+238", too_old([14, 0, 0])),
            (Package::Postgres, "13+225+deb11u1", too_old([13, 0, 0])),
            (Package::Redis, "5:7.0.15-1~deb12u10", Offer::Serves),
            (Package::Redis, "5:5.0.7-2ubuntu0.1", too_old([5, 0, 7])),
            (Package::Redis, "(none)", Offer::Nothing),
            (Package::Memcached, "1.6.18-1", Offer::Serves),
            (Package::Memcached, "1.6.9+dfsg-1", too_old([1, 6, 9])),
            (Package::PgBouncer, "1.18.0-1+deb12u1", Offer::Serves),
            (Package::HypoPg(15), "1.3.1-2+b1", Offer::Serves),
            (Package::OpenSsl, "3.0.19-1~deb12u2", Offer::Serves),
            (Package::OpenSsl, "1.1.1w-0+deb11u3", Offer::Serves),
            (Package::OpenSsl, "1.1.0l-1~deb9u1", too_old([1, 1, 0])),
        ] {
            assert_eq!(package.judge(&policy(candidate)), expected, "{package:?} {candidate}");
        }
        assert_eq!(Package::Redis.judge(""), Offer::Nothing);
    }

    #[test]
    fn old_offer_is_refused_with_what_serves_instead() {
        let complaint = Package::Postgres.complaint(too_old([14, 0, 0])).expect("14 is too old");
        assert!(complaint.contains("version 14") && complaint.contains("15 or later"), "{complaint}");
        assert!(complaint.contains("apt.postgresql.org"), "{complaint}");
        assert!(
            Package::Redis.complaint(Offer::Nothing).is_some_and(|text| text.contains("no redis-server"))
        );
        assert_eq!(Package::Redis.complaint(Offer::Serves), None);
    }

    #[test]
    fn command_by_hand_names_every_package_and_adds_newer_ones_only_where_needed() {
        let command = with_apt(&[(Package::Postgres, Offer::Nothing), (Package::Redis, Offer::Serves)]);
        assert_eq!(command, "sudo apt-get update && sudo apt-get install -y postgresql redis-server");
        let command = with_apt(&[(Package::Memcached, Offer::Serves)]);
        assert_eq!(command, "sudo apt-get update && sudo apt-get install -y memcached");
        let command = with_apt(&[(Package::PgBouncer, Offer::Serves), (Package::HypoPg(16), Offer::Serves)]);
        assert!(command.ends_with("install -y pgbouncer postgresql-16-hypopg"), "{command}");
        let command = with_apt(&[(Package::Postgres, too_old([13, 0, 0]))]);
        assert!(
            command.contains("apt.postgresql.org.sh -y && sudo apt-get install -y postgresql"),
            "{command}"
        );
    }
}
