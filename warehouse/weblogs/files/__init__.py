"""Which log files there are, who reads them, and how far they are read."""
