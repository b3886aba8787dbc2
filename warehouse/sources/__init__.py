"""Source systems: one folder of declarations and SQL each."""
