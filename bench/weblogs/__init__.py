"""Access logs into PostgreSQL: ours, the floor that a bare COPY sets, and what one would install."""
