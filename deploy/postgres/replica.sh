#!/usr/bin/env bash
# Entry point of the replica: copies the primary on the first start, then follows it. A copy that was cut short is made
# again: the marker is written last.
set -euo pipefail

marker="$PGDATA/paystrata-complete"
slot=paystrata_replica

if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    # PostgreSQL refuses root; gosu comes with the image.
    exec gosu postgres bash "$0" "$@"
fi

if [ ! -f "$marker" ]; then
    echo "copying the primary at $PRIMARY_HOST"
    find "$PGDATA" -mindepth 1 -delete
    pg_basebackup --host "$PRIMARY_HOST" --username "$REPLICATION_USER" --pgdata "$PGDATA" \
        --wal-method stream --checkpoint fast --slot "$slot" --write-recovery-conf
    touch "$marker"
fi

exec "$@"
