"""SQL of the order API, one class per thing that is kept; each works in the transaction that it is given."""
