#!/bin/sh
# Start Superset with the warehouse's datasets, charts and dashboards. Run by `make bi-superset` and by the compose service.
#   SUPERSET_HOME            its own data, kept between starts
#   SUPERSET_WAREHOUSE_URL   the warehouse, as a login of role dwh_reader: postgresql://reader:password@host:5432/warehouse
#   SUPERSET_ADMIN_PASSWORD  password of user admin, set at the first start
#   SUPERSET_PORT            8088 by default; SUPERSET_ADDRESS 127.0.0.1 by default
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${SUPERSET_HOME:?}" "${SUPERSET_WAREHOUSE_URL:?}" "${SUPERSET_ADMIN_PASSWORD:?}"
export SUPERSET_HOME FLASK_APP=superset SUPERSET_CONFIG_PATH="$here/superset_config.py"
mkdir -p "$SUPERSET_HOME"
if [ ! -s "$SUPERSET_HOME/secret_key" ]; then
  (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$SUPERSET_HOME/secret_key")
fi
superset db upgrade
superset init
# By its own code: a password among the arguments of a command can be read by everybody on the machine.
python - <<'END'
import os
from superset.app import create_app

app = create_app()
with app.app_context():
    manager = app.appbuilder.sm
    role, password = manager.find_role("Admin"), os.environ["SUPERSET_ADMIN_PASSWORD"]
    if manager.find_user("admin") is None:
        manager.add_user("admin", "Warehouse", "Admin", "admin@example.com", role, password)
END
bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT
python -c 'import shutil, sys; shutil.make_archive(sys.argv[1], "zip", sys.argv[2], "warehouse")' "$bundle/warehouse" "$here"
superset import-dashboards --path "$bundle/warehouse.zip" --username admin
rm -rf "$bundle"
trap - EXIT
exec superset run --host "${SUPERSET_ADDRESS:-127.0.0.1}" --port "${SUPERSET_PORT:-8088}" --with-threads
