#!/usr/bin/env bash
# Run once by the postgres image, on a new primary: lets the replica stream, and reserves its slot.
set -euo pipefail

# The image admits ordinary connections by password; replication needs a line of its own.
echo 'host replication all all scram-sha-256' >> "$PGDATA/pg_hba.conf"

psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    -c "select pg_create_physical_replication_slot('paystrata_replica', true)"
