#!/bin/sh
# Creates the logins of flows, Grafana and Superset with the privileges that they need; run again, it sets their passwords again.
# Passwords are passed in the environment, since other users can read command lines.
set -eu
cd "${SECRETS_FOLDER:-/run/secrets}"

# login DATABASE NAME ROLE ACTS_AS: the login's password is in NAME_password
login() {
    DATABASE="$1" NAME="$2" ROLE="$3" ACTS_AS="$4" PASSWORD="$(cat "$2_password")"
    export NAME ROLE ACTS_AS PASSWORD
    case "$DATABASE" in
        shop) PGHOST="${SHOP_DB_HOST:-shop-db}" PGPORT="${SHOP_DB_PORT:-5432}" ;;
        warehouse) PGHOST="${WAREHOUSE_DB_HOST:-warehouse-db}" PGPORT="${WAREHOUSE_DB_PORT:-5432}" ;;
    esac
    PGUSER="$DATABASE" PGDATABASE="$DATABASE" PGPASSWORD="$(cat "${DATABASE}_db_password")"
    export PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD
    PGOPTIONS="-c client_min_messages=warning" psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 <<'SQL'
\getenv name NAME
\getenv role ROLE
\getenv acts_as ACTS_AS
\getenv password PASSWORD
select format('create role %I nologin', :'role')
where not exists (select from pg_roles where rolname = :'role') \gexec
select format('create role %I login', :'name')
where not exists (select from pg_roles where rolname = :'name') \gexec
alter role :"name" password :'password';
select format('revoke %I from %I', granted.rolname, :'name')
from pg_auth_members as membership
join pg_roles as granted on granted.oid = membership.roleid
join pg_roles as member on member.oid = membership.member
where member.rolname = :'name' and granted.rolname <> :'role' \gexec
grant :"role" to :"name";
select format('alter role %I set role to %L', :'name', :'acts_as') where :'acts_as' <> '' \gexec
SQL
}

# Tables that a loader creates belong to the role, so that every other loader can alter them.
login warehouse loader dwh_loader dwh_loader
login warehouse grafana dwh_monitor ''
login warehouse superset dwh_reader ''
login shop shop_reader pg_read_all_data ''
# Its privileges come with the shop's tables (`dwh generate shop`, `dwh api --prepare`).
login shop order_api_login order_api order_api
