//! `http`: listeners, limits and the shape of responses. Read by the router and the servers.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::setting::{DefaultValue::Fixed, Kind, bytes, count, milliseconds};

/// Largest body that a setting may allow: a body is held in memory while it is checked.
const BODY_BYTES_CEILING: i64 = 1024 * 1024 * 1024;
/// All bodies together: as large as the memory of any one machine.
const BODIES_BYTES_CEILING: i64 = 1024 * 1024 * 1024 * 1024;

section! {
    /// Listeners, limits and the shape of responses.
    HttpConfig = "http" {
        /// Address of the public listener. Port 0 takes a free port.
        listen: SocketAddr = "listen" Kind::Address, Fixed("127.0.0.1:8080");
        /// Address of the operator listener: metrics, health, readiness. Keep it off public networks.
        operator_listen: SocketAddr = "operator_listen" Kind::Address, Fixed("127.0.0.1:9100");
        /// Longest time from a request's first byte to its answer.
        request_timeout: Duration = "request_timeout_ms" milliseconds(1, 600_000), Fixed("30000");
        /// Requests served at once; one more is refused with 503 and `Retry-After`. Four times as many connections are kept, 1,024 at least, as far as the descriptors go that the process may have (`ulimit -n`, raised to its hard limit at the start) without those that payments may need: a quarter of them at least, three quarters at most.
        in_flight_max: NonZeroUsize = "in_flight_max" count(1, 1_000_000), Fixed("4096");
        /// Largest request body, batches excepted.
        body_bytes_max: usize = "body_bytes_max" bytes(1024, BODY_BYTES_CEILING), Fixed("1048576");
        /// Largest body of a batch of payments.
        batch_body_bytes_max: usize = "batch_body_bytes_max" bytes(1024, BODY_BYTES_CEILING), Fixed("67108864");
        /// Most bytes that the bodies of all requests in hand have together, counted as they arrive; a body that does not
        /// fit is refused with 503 and `Retry-After`, before it is sent if it announces its length. A quarter is for
        /// bodies of at most 1 MiB only, as far as the largest batch fits into the rest. The values that are read out of
        /// a body take several times its bytes beside it.
        bodies_bytes_max: usize = "bodies_bytes_max" bytes(1024, BODIES_BYTES_CEILING), Fixed("536870912");
        /// Most payments in one batch.
        batch_items_max: NonZeroUsize = "batch_items_max" count(1, 1_000_000), Fixed("10000");
        /// Longest time that requests in flight get to finish at shutdown; 0 cuts them at once.
        drain_timeout: Duration = "drain_timeout_ms" milliseconds(0, 600_000), Fixed("25000");
        /// Whether responses are compressed for clients that accept it.
        compression_enabled: bool = "compression_enabled" Kind::Flag, Fixed("true");
        /// Smallest response that is compressed.
        compression_threshold_bytes: usize = "compression_threshold_bytes" bytes(0, BODY_BYTES_CEILING), Fixed("1024");
        /// Smallest list that is sent in pieces, without a length announced, so that no proxy has to hold it whole.
        streaming_threshold_bytes: usize = "streaming_threshold_bytes" bytes(0, BODY_BYTES_CEILING), Fixed("262144");
        /// Whether reads carry an `ETag` and answer `If-None-Match` with 304.
        etag_enabled: bool = "etag_enabled" Kind::Flag, Fixed("true");
    }
}
