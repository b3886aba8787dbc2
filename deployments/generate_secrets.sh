#!/bin/sh
# Generates the passwords of docker-compose.yml on the first start; later starts keep them.
# With arguments it runs them as a command instead:
# docker compose run --rm secrets cat /run/secrets/grafana_admin_password
set -eu
[ $# -eq 0 ] || exec "$@"
cd "${SECRETS_FOLDER:-/run/secrets}"
umask 022

generate() {
    [ -s "$1" ] || head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$1"
}

for name in shop_db warehouse_db prefect_db shop_reader order_api_login loader grafana grafana_admin superset superset_admin; do
    generate "${name}_password"
done
[ -s prefect_auth ] || printf 'dwh:%s' "$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')" > prefect_auth
[ -s api_token ] || head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > api_token
url() {
    printf 'postgresql://%s:%s@%s' "$2" "$(cat "$3_password")" "$4" > "$1"
}
url shop_owner_url shop shop_db shop-db:5432/shop
url shop_url shop_reader shop_reader shop-db:5432/shop
url shop_api_url order_api_login order_api_login shop-db:5432/shop
url warehouse_owner_url warehouse warehouse_db warehouse-db:5432/warehouse
url warehouse_url loader loader warehouse-db:5432/warehouse
url superset_warehouse_url superset superset warehouse-db:5432/warehouse

# Each service mounts what it needs, and no more.
give() {
    consumer="${CONSUMERS_FOLDER:-/run/for}/$1"
    shift
    mkdir -p "$consumer"
    cp "$@" "$consumer"
}
give shop-db shop_db_password
give warehouse-db warehouse_db_password
give prefect-db prefect_db_password
give prefect prefect_db_password prefect_auth
give dwh shop_url warehouse_url prefect_auth
give migrate warehouse_owner_url prefect_auth
give demo shop_owner_url warehouse_url prefect_auth
give api shop_api_url api_token
give grafana grafana_password grafana_admin_password
give superset superset_warehouse_url superset_admin_password
