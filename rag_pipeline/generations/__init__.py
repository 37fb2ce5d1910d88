"""Another model, dimension or chunk size without downtime: a generation is built beside the live one, then exchanged.

`plan` says what building costs, `build` fills it month by month and follows what changes meanwhile, `switching`
exchanges it with the live one, and back. What a generation is: `rag_pipeline.generation`.
"""
