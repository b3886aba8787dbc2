"""The live dashboard (extra `dashboard`): answers of the marts with filters, read as dwh_reader."""

from pathlib import Path

APP = Path(__file__).parent / "app.py"
