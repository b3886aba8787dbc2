"""Sources whose rows come from files: their records are read, typed and staged as a database's rows are."""
