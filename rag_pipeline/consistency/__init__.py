"""The consistency checks, and the repair of what they find.

`checks` is the table of all checks; `DataConsistencyChecker` asks them and changes nothing. `repair` makes
contradictory rows pending, deletes orphans, rebuilds what differs from the specification, and leaves the rest to
the write path. The queries themselves live with the stores.
"""
