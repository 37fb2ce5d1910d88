"""What an error of the Redis client says about the server."""

from __future__ import annotations


def refuses_writes(error: Exception) -> bool:
    """Whether this is the answer of a server that runs and takes no writes: its disk or memory is full, or a replica."""
    from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

    # In a pipeline its text begins with the command.
    no_disk = isinstance(error, ResponseError) and "MISCONF " in str(error)
    return no_disk or isinstance(error, OutOfMemoryError | ReadOnlyError)
