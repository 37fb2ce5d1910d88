"""Whether the stores agree, and the repair where they do not."""
