//! How a measured operation ended. Says nothing about why: that is the error's own business.

/// How a measured operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked.
    Success,
    /// It failed, or panicked.
    Error,
    /// It was given up before it ended: the future was dropped.
    Cancelled,
}
