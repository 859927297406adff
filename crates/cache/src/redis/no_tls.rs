//! Stands in for `tls` in a build without the feature `redis-tls`.
//! Refuses, by its field, whatever asks for TLS.

use redis::{ConnectionInfo, RedisError, RedisResult};

use super::{RedisServers, RedisTierError};

/// Cannot be had.
pub(super) enum Tls {}

impl Tls {
    pub(super) fn asked_for(field: &str, _servers: &RedisServers) -> Result<Self, RedisTierError> {
        Err(RedisTierError::TlsNotBuilt { field: field.to_owned() })
    }

    pub(super) fn over(&self, _info: ConnectionInfo) -> RedisResult<ConnectionInfo> {
        match *self {}
    }
}

/// Who speaks plainly trusts whoever answers.
pub(super) fn distrust(_error: &RedisError) -> Option<&'static str> {
    None
}
