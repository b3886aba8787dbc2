"""Versions of an export in a local folder: a symbolic link shows one of them, and is replaced in one step.

`export` is a link to `.export-versions/<version>`. A version is a folder with all files; unchanged ones are hard links
to those of the version before, which stays until the next export for readers that have resolved the link.
"""

import ctypes
import errno
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class Versions:
    """The new version of an export, and the one that readers see."""

    def __init__(self, folder: Path, run_id: int) -> None:
        self.shown, self._aside = folder, _aside(folder)
        self._before = self._aside / "before"
        if not os.path.lexists(folder) and self._before.exists():
            # An export was killed between the two renames of `show`.
            self._before.rename(folder)
        current = folder.readlink().name if folder.is_symlink() else None
        for left in self._aside.glob("*"):
            # Remove older versions and those of killed exports. None is being written: one export runs at a time.
            if left.is_symlink():
                left.unlink()
            elif left.name != current:
                shutil.rmtree(left, ignore_errors=True)
        self.new = self._aside / f"{run_id}-{uuid.uuid4().hex[:8]}"
        exists = folder.is_dir()
        self.new.mkdir(mode=0o700 if exists else 0o777, parents=True)
        if exists:
            _copy_permissions(folder, self.new)

    def carry_over(self, is_dropped: Callable[[str], bool]) -> None:
        """Link all files of the shown version into the new one, except dropped ones and those that it has."""
        if not self.shown.exists():
            return
        for parent, folders, files in os.walk(self.shown, topdown=False, onerror=_raise):
            old = Path(parent)
            relative = old.relative_to(self.shown)
            new = self.new / relative
            for name in [*files, *(one for one in folders if (old / one).is_symlink())]:
                if not (new / name).exists() and not is_dropped((relative / name).as_posix()):
                    new.mkdir(parents=True, exist_ok=True)
                    _link(old / name, new / name)
            if new.exists():
                _copy_permissions(old, new)

    def show(self) -> None:
        """Let readers see the new version instead of the shown one.

        A folder without versions is replaced by the link in one step, too, where the file system can exchange names.
        Otherwise, and where there are no symbolic links, the folder is renamed away and the new one takes its place.
        """
        new = self._aside / "link"
        try:
            new.symlink_to(Path(self._aside.name, self.new.name), target_is_directory=True)
        except OSError:
            new = self.new
        if self.shown.is_symlink() or not self.shown.exists():
            new.replace(self.shown)
            return
        if not _exchange(new, self.shown):
            self.shown.rename(self._before)
            new.rename(self.shown)
        for left in (new, self._before):
            shutil.rmtree(left, ignore_errors=True)


def without_links(folder: Path) -> Path:
    """Follow a user's own links, as to another disk, to the folder or link that versions replace."""
    with suppress(FileNotFoundError):
        # Fails for links in a circle.
        folder.stat()
    while folder.is_symlink() and folder.readlink().parent != Path(_aside(folder).name):
        folder = folder.parent / folder.readlink()
    return folder


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-versions")


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:
        # The file system has no hard links, or not to files of another user.
        shutil.copy2(old, new, follow_symlinks=False)


def _copy_permissions(old: Path, new: Path) -> None:
    """Give a folder the group and permissions that the one before has: who may read an export still may."""
    with suppress(PermissionError):
        os.chown(new, -1, old.stat().st_gid)
    shutil.copystat(old, new)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step. Returns whether platform and file system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(os.fsencode(one), os.fsencode(other), 2)
        else:
            # -100 stands for the current folder, 2 for RENAME_EXCHANGE.
            failed = libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2)
    except AttributeError:
        return False
    if failed and (number := ctypes.get_errno()) not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    return not failed


def _raise(error: OSError) -> None:
    raise error
