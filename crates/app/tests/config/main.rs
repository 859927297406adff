//! Configuration as an operator meets it. One binary, one file per subject; needs no service.

mod place;

mod compose;
mod page;
mod profiles;
mod refusals;
mod secrets;
mod sources;
mod unit;
