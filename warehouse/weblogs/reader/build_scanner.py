"""Compiles scan.c at installation, with its own fingerprint in it; setuptools runs this file (pyproject.toml)."""

import hashlib
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext


class BuildScanner(build_ext):  # type: ignore[misc]
    """build_ext that passes the source its SHA-256, and always compiles: a newer library may be of another source."""

    def build_extension(self, ext: Extension) -> None:
        """Compile an extension of one source."""
        self.force = True
        (source,) = ext.sources
        fingerprint = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        ext.define_macros.append(("SCAN_FINGERPRINT", f'"{fingerprint}"'))
        super().build_extension(ext)
