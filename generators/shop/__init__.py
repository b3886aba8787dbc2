"""A synthetic shop: an OLTP database of companies, customers, products and orders that changes every day."""

from generators.shop.database import create_schema
from generators.shop.history import generate
from generators.shop.simulation import simulate_day

__all__ = ["create_schema", "generate", "simulate_day"]
