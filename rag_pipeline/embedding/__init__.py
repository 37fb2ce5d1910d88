"""The embedders, and the cache in front of them. Not here: which chunks to embed, and where vectors are stored.

`factory.load_embedder` returns the embedder that the settings name: `local`, `bge_m3`, `openai`, or one wrapped by `custom`.
`cache.encode_cached` embeds a batch of texts through the cache, and `validation` checks the vectors.

To add an embedder: implement `base.Embedder` in a module here and name it in `factory`.
"""
