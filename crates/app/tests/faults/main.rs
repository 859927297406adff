//! Fault tests of the service: things are killed, cut, hung, lost and tampered with while money moves, and afterwards
//! every promise must still hold. Needs the services that `cargo xtask test` starts; what a test stops, it started itself.

mod binary;
#[path = "../../../db/tests/db/bouncer.rs"]
mod bouncer;
mod caller;
mod cluster;
mod frontend;
mod ground;
mod load;
mod memcached;
mod proxy;
#[path = "../stage/mod.rs"]
#[expect(dead_code, reason = "the stage is shared with other tests; this binary runs some of it itself")]
mod stage;

mod bounds;
mod commits;
mod crashes;
mod crowds;
mod gateways;
mod hangups;
mod helpers_gone;
mod nodes;
mod notices;
mod outages;
mod payments_elsewhere;
mod poolers;
mod readme;
mod replicas;
mod secured;
mod shutdown;
mod tampering;
