#!/bin/sh
# What the official image does with POSTGRES_USER, POSTGRES_PASSWORD_FILE and POSTGRES_DB: a cluster at the first start.
set -eu
as_postgres() {
    setpriv --reuid postgres --regid postgres --init-groups -- "$@"
}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres /var/lib/postgresql
    chmod 700 "$PGDATA"
    # shellcheck disable=SC2086
    as_postgres initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" \
        --encoding UTF8 $INITDB_LOCALE --auth-host scram-sha-256 --auth-local trust > /dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    echo "unix_socket_directories = '/tmp'" >> "$PGDATA/postgresql.conf"
    as_postgres pg_ctl --pgdata "$PGDATA" --wait --silent --options "-c listen_addresses=''" start > /dev/null
    as_postgres createdb --host /tmp --username "$POSTGRES_USER" "$POSTGRES_DB"
    as_postgres pg_ctl --pgdata "$PGDATA" --wait --silent --mode fast stop
fi
exec setpriv --reuid postgres --regid postgres --init-groups -- "$@"
