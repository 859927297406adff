//! `cargo xtask help`: every command on one screen.

/// The text of the screen.
pub(crate) const HELP: &str = "\
cargo xtask COMMAND

  setup [--no-install]
      Find PostgreSQL (15 or later), Redis (6 or later) and, for tests, memcached (1.6.12 or later), PgBouncer (1.18 or
      later), HypoPG (1.3 or later) and OpenSSL (1.1.1 or later); install what is missing on Debian-like systems.
  run [--port 8080] [--operator-port 9100] [--dir .paystrata] [--fresh] [--no-install]
      [--debug | --programs DIR] [--seed-payments N [--seed S] [--exit-after-seed]]
      From a fresh machine to a running service; Ctrl-C stops everything. --fresh removes earlier data.
      --programs DIR builds nothing and uses `paystrata` and `paystrata-simulator` of that directory.
  services up|down|status [--dir .paystrata/services] [--json] [--only postgres,replica,redis]
      Private PostgreSQL primary and replica and Redis on free loopback ports.
  test [FILTER] [--seeds N]
      All tests, with services of their own that are removed afterwards. Begins as setup does. N: how many random runs the
      simulations and models of the cache make, instead of their own number.
  bench [SUITE..] [--quick] [--json FILE] [--check]
      The benchmarks, side by side with their peers, with services of their own.
  prove [--seconds 30] [--clients 64] [--accounts 10] [--kill] [--dir .paystrata] [--no-install]
      [--debug | --programs DIR]
      Clients pay between few hot accounts of a service of their own; --kill sends it SIGKILL in the middle and starts it
      again. Then every acknowledged payment must be there exactly once, and `paystrata verify` must find nothing. Ends
      with 1 and keeps the data if anything contradicts that. --programs DIR also uses its `paystrata-load`.
  migrate up|status|new NAME
      Apply, list or begin database migrations.
  tidy
      Check layers, lengths, names, first lines, and the tests that documents name.
  help
      This screen.

Environment: PG_BIN (directory of the PostgreSQL programs), REDIS_SERVER (path of redis-server),
  MEMCACHED (path of memcached), PGBOUNCER (path of pgbouncer).";
