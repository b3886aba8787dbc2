"""Files, locks and ports by which processes of the local stack coordinate."""

import errno
import fcntl
import os
import random
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stack.errors import StackError

LOG_BYTES = 20 * 2**20


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system releases it even if the holder is killed."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_secret(path: Path, text: str) -> None:
    """Replace a file atomically; only its owner can read it."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if os.geteuid() == 0:
        # If root replaces a file in a user's folder, it still belongs to the user.
        owner = path.parent.stat()
        os.chown(fresh, owner.st_uid, owner.st_gid)
    fresh.replace(path)


def tail(path: Path, begin: int, size: int = 4000) -> str:
    """Return the end of a log: at most `size` bytes, and none before byte `begin`."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        # A log that was rotated meanwhile begins at 0 again.
        file.seek(max(begin if begin <= end else 0, end - size))
        return file.read().decode(errors="replace")


def append_secret(path: Path) -> IO[bytes]:
    """Open a log for appending, readable only by its owner; a long one is renamed first."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def rotate_log(path: Path) -> bool:
    """Copy a log longer than LOG_BYTES to `.old.log` and truncate it; returns whether it was that long.

    Its process may go on writing: it appends, so at the new end.
    """
    if not path.exists() or path.stat().st_size <= LOG_BYTES:
        return False
    old = path.with_suffix(".old.log")
    old.unlink(missing_ok=True)
    with path.open("rb") as content, append_secret(old) as copy:
        shutil.copyfileobj(content, copy)
    os.truncate(path, 0)
    return True


def full_disk(folder: Path) -> StackError:
    """The error for a full disk."""
    return StackError(f"The disk that holds {folder} is full.", hint="Free some space and start again.")


@contextmanager
def disk_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn errors of the operating system while `what` is started in `folder` into a StackError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(folder) from None
        raise StackError(
            f"{what} cannot be started in {folder}: {error}.",
            hint="Is the folder writable for this user? DWH_HOME chooses another.",
        ) from None


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, out of those that outgoing connections do not use."""
    while not is_free(port := random.randrange(15000, 32000)):
        pass
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
