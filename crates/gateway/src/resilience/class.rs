//! What kind of operation an exchange is, from which alone follows whether it may be sent again.
//! Decides nothing by gateway, verb or error text.

use crate::request::Reference;

/// The class of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationClass {
    /// Changes nothing: may be repeated freely.
    Read,
    /// The gateway deduplicates by this key: may be repeated with the same key and body.
    IdempotentWrite(Reference),
    /// Must not be repeated once a byte of it may have been written.
    UnsafeWrite,
}

/// Whether bytes of a request left this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// Provably none.
    Nothing,
    /// Some may have.
    Maybe,
}

impl OperationClass {
    pub(crate) fn may_resend(&self, written: Written) -> bool {
        match self {
            Self::Read | Self::IdempotentWrite(_) => true,
            Self::UnsafeWrite => written == Written::Nothing,
        }
    }

    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Read)
    }

    /// The lower-case name, for spans and labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::IdempotentWrite(_) => "idempotent_write",
            Self::UnsafeWrite => "unsafe_write",
        }
    }
}
