"""Queries over what the write path made."""
