"""The star schema and marts, declared once, and what is generated from them: DDL, SQL, documentation and dashboards."""
