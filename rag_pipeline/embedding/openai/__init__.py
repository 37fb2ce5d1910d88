"""`RAG_EMBEDDER=openai`: dense vectors from any server that has the endpoint `/v1/embeddings` of OpenAI's API.

Sparse vectors are BM25, or come from another server. `embedder` is the `Embedder`. `options` are its settings, checked;
`batches` cuts texts into requests; `endpoints` and `sparse_endpoints` are what a server can be asked; `server` sends the
requests, several at a time, and tries again what fails; `answers` reads what comes back. `circuit_breaker` keeps searches
from waiting for a server that is down.
"""
