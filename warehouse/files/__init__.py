"""Files in the lake: where they lie, how they are opened, what was read of them."""
