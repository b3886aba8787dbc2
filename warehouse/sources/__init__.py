"""Source systems: one folder per source, with its declaration (source.toml) and conform SQL."""
