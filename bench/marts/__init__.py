"""How fast marts answer a reader."""
