"""The live Streamlit dashboard (extra `dashboard`): marts with filters, read as role dwh_reader."""

from pathlib import Path

APP = Path(__file__).parent / "app.py"
