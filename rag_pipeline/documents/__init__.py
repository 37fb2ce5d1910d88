"""From a file's bytes to chunks. Pure functions of their input: no store, no network, no embedder.

Parsing can take for ever, so the pipeline has it done by processes that can be killed (`parsing.parser_pool`).

`parsing` reads a file's format into Markdown and metadata, `outline` finds the sections and blocks of the
Markdown, and `chunking` cuts it into chunks along that outline. `cleaning` and `outline` are shared by both.

To add a file format, see `parsing`.
"""
