"""The search page: rendered here, with a little script for the keyboard; nothing is loaded from elsewhere."""
