"""Export of the warehouse: dimensions, facts and marts as Parquet, reports as CSV or into another PostgreSQL."""
