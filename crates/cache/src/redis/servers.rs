//! Which servers a tier is on, as a configuration says it, and whether they are spoken to over TLS: all, or none.
//! Refuses to show what may hold a password or a key: its Debug names the kind, and its errors name fields and repeat nothing.

use std::fmt;

use super::{
    RedisOptions,
    dial::{Endpoint, is_over_tls},
    origin::{Origin, Sentinels},
    router::Router,
    tls::Tls,
};

/// The servers of a Redis tier. Addresses are URLs: `redis://[user:password@]host[:port][/database]`, or `rediss://..` for
/// TLS, which takes the feature `redis-tls`. Over TLS a server must show a certificate for the host by which it is reached
/// (of a cluster and under sentinels: by which it is named there, an IP address unless they are told otherwise), by an
/// authority that the system trusts, or by one that [`Tls`](Self::Tls) names.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// One server.
    Single {
        /// Where it is.
        url: String,
    },
    /// A primary and its replicas, under the watch of sentinels. The primary is the one that most of
    /// the sentinels name; it is followed within about a second of a failover.
    Sentinel {
        /// Where the sentinels are.
        sentinels: Vec<String>,
        /// What they call the primary.
        service: String,
        /// How to log in there, and which database to use. The host and port in it are not used.
        login: String,
    },
    /// A cluster.
    Cluster {
        /// Where some of its nodes are; the others are found out. All are logged in to alike.
        seeds: Vec<String>,
    },
    /// Any of these with certificates of the tier's own. All URLs are `rediss://`.
    Tls {
        /// The servers.
        servers: Box<RedisServers>,
        /// Authorities that are trusted, in PEM: these and no others. Without any, those that the system trusts.
        root_certificates: Option<Vec<u8>>,
        /// What is shown to a server that asks who is there, in PEM: the certificate, then those between it and its authority.
        client_certificate: Option<Vec<u8>>,
        /// The private key of the client's certificate, in PEM, not encrypted.
        client_key: Option<Vec<u8>>,
    },
}

impl fmt::Debug for RedisServers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single { .. } => formatter.write_str("Single"),
            Self::Sentinel { sentinels, service, .. } => formatter
                .debug_struct("Sentinel")
                .field("sentinels", &sentinels.len())
                .field("service", service)
                .finish_non_exhaustive(),
            Self::Cluster { seeds } => {
                formatter.debug_struct("Cluster").field("seeds", &seeds.len()).finish_non_exhaustive()
            }
            Self::Tls { servers, root_certificates, client_certificate, .. } => formatter
                .debug_struct("Tls")
                .field("servers", servers)
                .field("has_roots", &root_certificates.is_some())
                .field("has_client", &client_certificate.is_some())
                .finish_non_exhaustive(),
        }
    }
}

/// The Redis tier cannot be set up. Fields are those of [`RedisServers`]: `url`, `sentinels[0]`, `client_key`; options are named
/// with their type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisTierError {
    /// A URL is none that names a Redis server. It is not repeated here: it may hold a password.
    #[error(
        "the Redis URL cannot be used: expected redis:// or rediss://, then [user:password@]host[:port][/database]"
    )]
    InvalidUrl,
    /// There is no URL of a sentinel or of a cluster's node.
    #[error("no Redis server is named")]
    NoServers,
    /// A URL asks for TLS, of which this build has none.
    #[error("{field} asks for TLS, which takes the feature `redis-tls` of paystrata-cache")]
    TlsNotBuilt {
        /// Where the URL stands.
        field: String,
    },
    /// A URL has a fragment, as where it asks for TLS with whoever answers.
    #[error(
        "{field} has something behind a #, which is refused (#insecure too): give the authority of its certificate instead"
    )]
    TlsUnverified {
        /// Where the URL stands.
        field: String,
    },
    /// A URL does not ask for TLS, and others do, or certificates are given.
    #[error(
        "{field} is not rediss://, and the tier is to speak TLS: it does so with all of its servers or with none"
    )]
    PlainUrl {
        /// Where the URL stands.
        field: String,
    },
    /// A certificate or a key is none that can be used. It is not repeated here.
    #[error("{field} cannot be used: expected {expected}")]
    InvalidCertificate {
        /// Where it stands.
        field: &'static str,
        /// What should stand there.
        expected: &'static str,
    },
    /// The system trusts no authority, and none is given.
    #[error("the system has no certificates that can be read: give root_certificates, or set SSL_CERT_FILE")]
    NoSystemCertificates,
    /// Servers that have their certificates are given others.
    #[error("servers has certificates already")]
    CertifiedTwice,
    /// With this value an option could not do what it is there for.
    #[error("`{field}` is {value}: expected {expected}")]
    InvalidOption {
        /// The option, named with its type: `RedisOptions::heartbeat`.
        field: &'static str,
        /// As it was given.
        value: String,
        /// What would be taken.
        expected: &'static str,
    },
}

impl RedisServers {
    pub(super) fn router(&self, options: &RedisOptions) -> Result<Router, RedisTierError> {
        let tls = self.tls()?;
        let servers = match self {
            Self::Tls { servers, .. } => &**servers,
            servers => servers,
        };
        servers.router_over(tls.as_ref(), options)
    }

    fn router_over(&self, tls: Option<&Tls>, options: &RedisOptions) -> Result<Router, RedisTierError> {
        Ok(match self {
            Self::Single { url } => Router::one(Origin::Fixed(parsed(url, tls)?), options),
            Self::Sentinel { sentinels, service, login } => {
                let sentinels = Sentinels {
                    sentinels: all_parsed(sentinels, tls)?,
                    service: service.clone(),
                    primary: parsed(login, tls)?,
                };
                Router::one(Origin::Sentinel(sentinels), options)
            }
            Self::Cluster { seeds } => Router::cluster(all_parsed(seeds, tls)?, options),
            Self::Tls { .. } => return Err(RedisTierError::CertifiedTwice),
        })
    }

    /// The number of the database that is used.
    pub(super) fn database(&self) -> i64 {
        let url = match self {
            Self::Single { url } => url,
            Self::Sentinel { login, .. } => login,
            Self::Cluster { .. } => return 0,
            Self::Tls { servers, .. } => return servers.database(),
        };
        parsed(url, None).map_or(0, |endpoint| endpoint.database())
    }

    /// TLS, if the URLs ask for it. One that does not would be the way around it for all: passwords and values are the same
    /// everywhere.
    fn tls(&self) -> Result<Option<Tls>, RedisTierError> {
        let (mut asking, mut plain) = (None, None);
        for (field, url) in self.addresses() {
            let first = if asks_for_tls(&field, url)? { &mut asking } else { &mut plain };
            if first.is_none() {
                *first = Some(field);
            }
        }
        match (asking, plain) {
            (Some(field), None) => Tls::asked_for(&field, self).map(Some),
            (Some(_), Some(field)) => Err(RedisTierError::PlainUrl { field }),
            (None, Some(field)) if matches!(self, Self::Tls { .. }) => {
                Err(RedisTierError::PlainUrl { field })
            }
            (None, _) => Ok(None),
        }
    }

    /// Every URL, behind the name of its field.
    fn addresses(&self) -> Vec<(String, &str)> {
        match self {
            Self::Single { url } => vec![("url".to_owned(), url.as_str())],
            Self::Sentinel { sentinels, login, .. } => {
                let mut addresses = numbered("sentinels", sentinels);
                addresses.push(("login".to_owned(), login.as_str()));
                addresses
            }
            Self::Cluster { seeds } => numbered("seeds", seeds),
            Self::Tls { servers, .. } => servers.addresses(),
        }
    }
}

fn numbered<'a>(field: &str, urls: &'a [String]) -> Vec<(String, &'a str)> {
    let name = |(number, url): (usize, &'a String)| (format!("{field}[{number}]"), url.as_str());
    urls.iter().enumerate().map(name).collect()
}

fn asks_for_tls(field: &str, url: &str) -> Result<bool, RedisTierError> {
    let url = redis::parse_redis_url(url).ok_or(RedisTierError::InvalidUrl)?;
    // Also where there is no TLS to be weakened: whoever wrote it expects some.
    if url.fragment().is_some() {
        return Err(RedisTierError::TlsUnverified { field: field.to_owned() });
    }
    Ok(is_over_tls(url.scheme()))
}

fn all_parsed(urls: &[String], tls: Option<&Tls>) -> Result<Vec<Endpoint>, RedisTierError> {
    if urls.is_empty() {
        return Err(RedisTierError::NoServers);
    }
    urls.iter().map(|url| parsed(url, tls)).collect()
}

fn parsed(url: &str, tls: Option<&Tls>) -> Result<Endpoint, RedisTierError> {
    Endpoint::parse(url, tls.cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(servers: &RedisServers) -> Option<String> {
        servers.router(&RedisOptions::default()).err().map(|error| error.to_string())
    }

    fn single(url: &str) -> RedisServers {
        RedisServers::Single { url: url.to_owned() }
    }

    fn urls(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    #[test]
    fn tls_is_asked_for_by_every_url_or_by_none() {
        let check = |servers: &RedisServers, field: &str| {
            let refusal = refusal(servers).unwrap_or_default();
            assert!(refusal.starts_with(&format!("{field} is not rediss://")), "{field}: {refusal}");
        };
        check(&RedisServers::Cluster { seeds: urls(&["rediss://a", "redis://b"]) }, "seeds[1]");
        let sentinel = |sentinels: &[&str], login: &str| RedisServers::Sentinel {
            sentinels: urls(sentinels),
            service: "pay".to_owned(),
            login: login.to_owned(),
        };
        check(&sentinel(&["rediss://a"], "redis://unused"), "login");
        check(&sentinel(&["rediss://a", "redis://b"], "rediss://unused"), "sentinels[1]");
        check(&certified(single("redis://a"), None), "url");
        assert_eq!(refusal(&sentinel(&["redis://a"], "redis://unused")), None);
    }

    #[test]
    fn url_that_asks_for_no_check_is_refused_by_its_field() {
        for url in ["rediss://a#insecure", "valkeys://a/1#insecure", "redis://a#insecure"] {
            let refusal = refusal(&single(url)).unwrap_or_default();
            assert!(refusal.starts_with("url has something behind a #"), "{url}: {refusal}");
        }
    }

    #[test]
    fn tls_is_had_or_refused_by_its_field() {
        let expected = (!cfg!(feature = "redis-tls"))
            .then(|| "url asks for TLS, which takes the feature `redis-tls` of paystrata-cache".to_owned());
        for url in ["rediss://a:6380/2", "valkeys://a"] {
            assert_eq!(refusal(&single(url)), expected, "{url}");
        }
    }

    #[cfg(feature = "redis-tls")]
    #[test]
    fn certificate_that_cannot_be_used_is_refused_by_its_field_and_not_repeated() {
        let check = |given: RedisServers, expected: &str| {
            let refusal = refusal(&given).unwrap_or_default();
            assert!(refusal.starts_with(expected), "{expected}: {refusal}");
            assert!(!format!("{refusal}{given:?}").contains("hunter2"), "{refusal}");
        };
        let broken = b"-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n";
        for roots in [&b"hunter2"[..], &broken[..]] {
            check(certified(single("rediss://a"), Some(roots)), "root_certificates cannot be used");
        }
        let shown = |certificate: Option<&[u8]>, key: Option<&[u8]>| RedisServers::Tls {
            servers: Box::new(single("rediss://a")),
            root_certificates: None,
            client_certificate: certificate.map(<[u8]>::to_vec),
            client_key: key.map(<[u8]>::to_vec),
        };
        check(shown(Some(b"hunter2"), None), "client_key cannot be used");
        check(shown(None, Some(b"hunter2")), "client_certificate cannot be used");
        check(shown(Some(b"hunter2"), Some(b"hunter2")), "client_certificate cannot be used");
        check(certified(certified(single("rediss://a"), None), None), "servers has certificates already");
    }

    fn certified(servers: RedisServers, roots: Option<&[u8]>) -> RedisServers {
        RedisServers::Tls {
            servers: Box::new(servers),
            root_certificates: roots.map(<[u8]>::to_vec),
            client_certificate: None,
            client_key: None,
        }
    }
}
