"""What the shop does with orders: place, list, show and change them."""
