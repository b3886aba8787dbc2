"""The account that the embedded PostgreSQL runs under: it refuses to run as root."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stack.errors import StackError

DAC_OVERRIDE = 1
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class ServerAccount:
    """The account that runs the server: this user (`uid` None), or for root a user without root's privileges.

    `needs_override`: that user may not enter some parent folder, as in a checkout below /root. The server then keeps
    one of root's capabilities (CAP_DAC_OVERRIDE, which opens files) and none of the others.
    """

    uid: int | None
    gid: int | None
    needs_override: bool = False

    @classmethod
    def of(cls, folder: Path, programs: Path) -> "ServerAccount":
        """Account for a server with its data in `folder`: the folder's owner, or `nobody` if that is root."""
        if os.geteuid() != 0:
            return cls(None, None)
        owner = folder.stat()
        uid, gid = (owner.st_uid, owner.st_gid) if owner.st_uid != 0 else _nobody()
        ways = [*folder.parents, *programs.parents, programs, programs / "postgres"]
        return cls(uid, gid, needs_override=not all(_may_enter(way, uid) for way in ways))

    def give(self, *paths: Path) -> None:
        """Give files that root created to the account."""
        if self.uid is not None and self.gid is not None:
            for path in paths:
                os.chown(path, self.uid, self.gid)

    def run(self, command: list[str], cwd: Path) -> tuple[int, str]:
        """Run a program and wait for it; returns its exit code and output."""
        process = self.start(command, cwd, subprocess.PIPE)
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
        return process.returncode, output.decode(errors="replace")

    def start(self, command: list[str], cwd: Path, output: IO[bytes] | int) -> "subprocess.Popen[bytes]":
        """Start a program in a new session, so that Ctrl-C in a terminal does not reach it."""
        drop = self.uid is not None and not self.needs_override
        return subprocess.Popen(
            self._command(command),
            cwd=cwd,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=self.uid if drop else None,
            group=self.gid if drop else None,
            extra_groups=[] if drop else None,
        )

    def _command(self, command: list[str]) -> list[str]:
        if not self.needs_override:
            return command
        setpriv = shutil.which("setpriv")
        if setpriv is None or not _has_override():
            raise StackError(
                "PostgreSQL does not run as root, and other users may not enter this folder.",
                hint="Work as a normal user, or in a folder that others may enter (chmod o+x).",
            )
        override = ("--inh-caps", "-all,+dac_override", "--ambient-caps", "-all,+dac_override")
        who = ("--reuid", str(self.uid), "--regid", str(self.gid), "--clear-groups")
        return [setpriv, *who, *override, "--bounding-set", "-all,+dac_override", "--", *command]


def _nobody() -> tuple[int, int]:
    try:
        account = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return account.pw_uid, account.pw_gid


def _may_enter(path: Path, uid: int) -> bool:
    status = path.stat()
    return bool(status.st_mode & (0o100 if status.st_uid == uid else 0o001))


def _has_override() -> bool:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:
        return False
    permitted = next((int(line.split()[1], 16) for line in lines if line.startswith("CapPrm:")), 0)
    return bool(permitted >> DAC_OVERRIDE & 1)
