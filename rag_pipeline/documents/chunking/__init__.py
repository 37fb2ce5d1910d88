"""From Markdown to chunks: `chunker.chunk_document`.

`split` cuts blocks into pieces that are never cut again, `pack` fills chunks with pieces, and `chunker` builds a
`ChunkDraft` from each.
"""
