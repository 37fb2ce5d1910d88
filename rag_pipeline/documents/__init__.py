"""From bytes to chunks: formats to Markdown and metadata, the outline, the chunks.

Pure functions of their input; no store, no network, no embedder."""
