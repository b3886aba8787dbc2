"""SQL of the order API: one class each for orders and idempotency keys, working in the caller's transaction."""
