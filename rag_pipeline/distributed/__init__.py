"""A step of a month's run, spread over processes on many machines by Ray, which is imported only if it is asked for.

`cluster` finds the cluster, `worker` runs in its processes, `fleet` starts them from the run and watches them. What
is to be done belongs to who asks: these know neither chunks nor documents. `parsing` is apart: it writes nothing.
"""
