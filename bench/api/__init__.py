"""What an order through the API costs, beside psql."""
