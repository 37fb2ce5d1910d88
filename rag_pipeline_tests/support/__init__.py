"""The harnesses that the tests share. Tests import from here, never from a conftest or from another test."""
