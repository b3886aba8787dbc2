"""Parse log lines into columns: compiled parser, fallback parser, addresses, traffic rules."""
