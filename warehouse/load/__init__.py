"""Load staged batches into mirrors, star and quarantine, in one transaction per run."""
