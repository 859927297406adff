//! The edge: what every route shares and no domain knows. Problems, strict reading of bodies and headers, request ids,
//! authentication, limits, conditional answers.

pub mod answer;
pub mod auth;
pub mod fields;
pub mod idempotency;
pub mod limits;
mod number;
pub mod page;
pub mod path;
pub mod problem;
pub mod request_id;
mod unique;
