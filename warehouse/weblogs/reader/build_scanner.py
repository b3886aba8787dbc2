"""Compile scan.c at installation, with its SHA-256 in the library; setuptools runs this file (see pyproject.toml)."""

import hashlib
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext


class BuildScanner(build_ext):  # type: ignore[misc]
    """A build_ext that passes the SHA-256 to the compiler, and always compiles: a newer library may be another one."""

    def build_extension(self, ext: Extension) -> None:
        """Compile an extension of one source."""
        self.force = True
        (source,) = ext.sources
        fingerprint = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        ext.define_macros.append(("SCAN_FINGERPRINT", f'"{fingerprint}"'))
        super().build_extension(ext)
