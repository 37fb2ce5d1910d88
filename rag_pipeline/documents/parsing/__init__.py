"""Bytes of a file to Markdown and metadata: one reader per format, and `parser` in front of them."""
