//! Replies of the simulator before they become HTTP: status, body and headers, or a cut connection.
//! Applies the faults that change a reply; decides none.

use super::faults::FaultKind;

/// Beyond any client's cap.
const HUGE_BODY_BYTES: usize = 10 * 1024 * 1024;
/// What a busy gateway asks for.
const RETRY_AFTER_S: &str = "1";

/// What goes back to the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Http {
        status: u16,
        content_type: &'static str,
        headers: Vec<(&'static str, &'static str)>,
        body: Vec<u8>,
    },
    /// The connection is closed without a reply.
    Drop,
}

impl Reply {
    pub(super) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Http {
            status,
            content_type: "application/json; charset=utf-8",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub(super) fn value(status: u16, value: &impl serde::Serialize) -> Self {
        Self::json(status, serde_json::to_vec(value).expect("plain structs always serialise"))
    }

    pub(super) fn html(status: u16, title: &str) -> Self {
        let body = format!("<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>");
        Self::Http { status, content_type: "text/html", headers: Vec::new(), body: body.into_bytes() }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name, value));
        }
        self
    }

    pub(super) fn retry_later(self) -> Self {
        self.with_header("retry-after", RETRY_AFTER_S)
    }

    /// The reply as a fault that strikes after the effect leaves it.
    pub(super) fn after(self, fault: Option<FaultKind>) -> Self {
        match (fault, self) {
            (Some(FaultKind::DropAfter), _) => Self::Drop,
            (Some(FaultKind::Http502), _) => Self::html(502, "Bad Gateway"),
            (Some(FaultKind::HugeBody), _) => Self::json(200, vec![b' '; HUGE_BODY_BYTES]),
            (Some(FaultKind::Truncated), Self::Http { status, content_type, headers, mut body }) => {
                body.truncate(body.len() / 2);
                Self::Http { status, content_type, headers, body }
            }
            (_, reply) => reply,
        }
    }
}
