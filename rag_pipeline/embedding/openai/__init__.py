"""`RAG_EMBEDDER=openai`: dense vectors from any server that has the endpoint `/v1/embeddings` of OpenAI's API.

`embedder` is the `Embedder`. `options` are its settings, checked; `batches` cuts texts into requests; `server` sends
them, several at a time, and tries again what fails; `answers` reads what comes back. `circuit_breaker`
keeps searches from waiting for a server that is down.
"""
