"""The write path: from what a source holds to verified vectors, a month at a time.

`ingest` scans the sources and runs the months; `month_run` has the steps of a month in their order; each step is a
module named after its function. A step takes a `Pipeline` and returns what it did.
"""
