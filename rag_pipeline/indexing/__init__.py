"""The write path: from what a source holds to verified vectors, a month at a time."""
