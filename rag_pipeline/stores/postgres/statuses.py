"""When work that failed is tried again: what broke it may mend itself, and must not keep every run busy meanwhile."""

RETRY_AT = "now() + least(interval '1 day' * power(2, least(failures, 10)), interval '30 days')"
"""SQL, in an UPDATE that also counts `failures` up: a day after the first failure, then twice as long, up to 30 days."""
