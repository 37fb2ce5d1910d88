"""Whether the stores agree, and the repair where they do not.

`DataConsistencyChecker` looks and changes nothing; `repair` makes what is wrong pending, deletes what is orphaned,
rebuilds what is not as specified, and has the write path do the rest. What each store is asked lives with the
stores.
"""
