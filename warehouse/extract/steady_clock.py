"""Time between two runs, by a monotonic clock that cannot be set (where the machine has one).

A source whose clock was set back stamps new rows as older than those already read. Only another clock can show this.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class SteadyTime:
    """A reading of this machine's clocks: seconds since it was booted, which boot that was, and the time of day."""

    boot_id: str | None
    boot_seconds: float
    epoch_seconds: float

    @classmethod
    def now(cls) -> Self:
        """Read the clocks."""
        if not hasattr(time, "CLOCK_BOOTTIME") or not _BOOT_ID.exists():
            return cls(None, 0.0, time.time())
        return cls(_BOOT_ID.read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """Read what `stored` returned; None if nothing was stored."""
        return cls(**stored) if stored else None

    def stored(self) -> dict[str, Any]:
        """Return a JSON object to store."""
        return asdict(self)

    def elapsed_since(self, earlier: Self) -> timedelta | None:
        """Time since an earlier reading; None if only the time of day can be compared, and it went back."""
        if self.boot_id is not None and self.boot_id == earlier.boot_id:
            return timedelta(seconds=self.boot_seconds - earlier.boot_seconds)
        seconds = self.epoch_seconds - earlier.epoch_seconds
        return timedelta(seconds=seconds) if seconds >= 0 else None
