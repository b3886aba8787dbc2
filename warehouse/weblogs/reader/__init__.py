"""Log lines into columns: parser, fallback parser, addresses, traffic rules."""
