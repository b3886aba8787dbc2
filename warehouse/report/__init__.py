"""The HTML report: marts, runs and quality in one file that needs no network."""
