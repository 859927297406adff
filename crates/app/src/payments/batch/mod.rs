//! Many payments in one request: `POST /v1/payments/batch`. There is no domain logic beside that of single payments,
//! so all of it is the edge: reading items, running each, composing the answer.

pub mod handler;
