"""Live: one process that stays and publishes what changes in a source, batch by batch, as every other run does."""
