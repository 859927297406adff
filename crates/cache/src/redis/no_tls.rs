//! Stands in for `tls` in a build without the feature `redis-tls`.
//! Refuses, by its field, whatever asks for TLS.

use redis::RedisError;
use tokio::net::TcpStream;

use super::{RedisServers, RedisTierError, failure::Failure};

/// Cannot be had.
#[derive(Clone)]
pub(super) enum Tls {}

impl Tls {
    pub(super) fn asked_for(field: &str, _servers: &RedisServers) -> Result<Self, RedisTierError> {
        Err(RedisTierError::TlsNotBuilt { field: field.to_owned() })
    }

    pub(super) async fn handshake(&self, _host: &str, _stream: TcpStream) -> Result<TcpStream, Failure> {
        match *self {}
    }
}

/// Who speaks plainly trusts whoever answers.
pub(super) fn distrust(_error: &RedisError) -> Option<&'static str> {
    None
}
