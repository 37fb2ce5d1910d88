"""The embedders, and the cache before them.

`factory.load_embedder` gives the one that the settings name, `cache.encode_cached` what a batch of texts becomes.
Which chunks to embed and where vectors go is not decided here.
"""
