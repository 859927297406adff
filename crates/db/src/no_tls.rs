//! Stands in for `tls` in a build without the feature `tls`.
//! Refuses each URL that demands it.

use std::sync::Arc;

use tokio_postgres::NoTls;
use tokio_postgres::config::SslNegotiation;

use crate::node::NodeId;
use crate::tap::Tap;
use crate::url::UrlError;
use crate::url::parameters::TlsParameters;

/// Cannot be had.
#[derive(Clone)]
pub(crate) enum Tls {}

impl Tls {
    pub(crate) fn asked_for(
        _host: &str,
        _negotiation: SslNegotiation,
        _parameters: &TlsParameters,
    ) -> Result<Self, UrlError> {
        Err(UrlError::TlsDemanded)
    }

    pub(crate) fn straight(&self) -> NoTls {
        match *self {}
    }

    pub(crate) fn tapped(&self, _tap: &Arc<Tap>) -> NoTls {
        match *self {}
    }

    pub(crate) fn kept_open(&self) -> NoTls {
        match *self {}
    }

    pub(crate) fn distrust(&self, _node: &NodeId, _error: &tokio_postgres::Error) -> Option<&'static str> {
        match *self {}
    }

    pub(crate) fn note_trust(&self) {
        match *self {}
    }
}
