"""Markdown to chunks: `split` makes pieces that are never cut again, `pack` fills chunks with them, `chunker` does both."""
