//! `gateways`: the external rails. Read by the start of the gateway clients.

use std::num::NonZeroUsize;
use std::time::Duration;

use paystrata_gateway::authorize_net::{LOGIN_CHARACTERS_MAX, TRANSACTION_KEY_CHARACTERS_MAX};

use crate::config::checked::Checked;
use crate::config::secret::Secret;
use crate::config::setting::DefaultValue::{DevelopmentSecret, Fixed};
use crate::config::setting::{Kind, count, milliseconds};

/// It travels in a header, and servers take no header beyond 8 KiB.
const API_KEY_CHARACTERS_MAX: usize = 4_096;

/// The rails that are enabled: those with an endpoint.
#[derive(Debug, Clone)]
pub struct GatewaysConfig {
    /// Cards through Authorize.Net.
    pub authorize_net: Option<AuthorizeNetConfig>,
    /// Transfers through VelocityPay.
    pub velocity_pay: Option<VelocityPayConfig>,
}

impl GatewaysConfig {
    pub(crate) fn read(values: &Checked) -> Self {
        let enabled = |endpoint: &str| values.text(endpoint).is_some_and(|text| !text.is_empty());
        Self {
            authorize_net: enabled(AUTHORIZE_NET_ENDPOINT).then(|| AuthorizeNetConfig::read(values)),
            velocity_pay: enabled(VELOCITY_PAY_ENDPOINT).then(|| VelocityPayConfig::read(values)),
        }
    }
}

pub(crate) const AUTHORIZE_NET_ENDPOINT: &str = "gateways.authorize_net.endpoint";
pub(crate) const VELOCITY_PAY_ENDPOINT: &str = "gateways.velocity_pay.endpoint";

section! {
    /// Cards through Authorize.Net.
    AuthorizeNetConfig = "gateways.authorize_net" {
        /// URL of the JSON API; empty disables the rail.
        endpoint: String = "endpoint" Kind::GatewayEndpoint, Fixed("");
        /// API login id. Needed when the rail is enabled.
        login: Secret = "login" Kind::Credential { characters_max: LOGIN_CHARACTERS_MAX }, DevelopmentSecret("simulator");
        /// Transaction key. Needed when the rail is enabled.
        transaction_key: Secret = "transaction_key" Kind::Credential { characters_max: TRANSACTION_KEY_CHARACTERS_MAX }, DevelopmentSecret("simulator-key");
        /// Longest wait for one answer; the outcome is unknown then, and the resolver asks for it.
        timeout: Duration = "timeout_ms" milliseconds(1, 120_000), Fixed("10000");
        /// Payments at the gateway at once. As many as 64 more wait for a place, each for up to 100 ms; what gets none is
        /// refused with 503 `overloaded`, before any effect. Items of an independent batch wait for half of
        /// `http.request_timeout_ms`, and all batches together take at most half of the places.
        in_flight_max: NonZeroUsize = "in_flight_max" count(1, 10_000), Fixed("64");
    }
}

section! {
    /// Transfers through VelocityPay.
    VelocityPayConfig = "gateways.velocity_pay" {
        /// URL of the JSON API; empty disables the rail.
        endpoint: String = "endpoint" Kind::GatewayEndpoint, Fixed("");
        /// API key. Needed when the rail is enabled.
        api_key: Secret = "api_key" Kind::Credential { characters_max: API_KEY_CHARACTERS_MAX }, DevelopmentSecret("simulator-api-key");
        /// Longest wait for one answer; the outcome is unknown then, and the resolver asks for it.
        timeout: Duration = "timeout_ms" milliseconds(1, 120_000), Fixed("10000");
        /// Payments at the gateway at once. As many as 64 more wait for a place, each for up to 100 ms; what gets none is
        /// refused with 503 `overloaded`, before any effect. Items of an independent batch wait for half of
        /// `http.request_timeout_ms`, and all batches together take at most half of the places.
        in_flight_max: NonZeroUsize = "in_flight_max" count(1, 10_000), Fixed("64");
    }
}
