"""The embedders, and the cache before them."""
