"""The Dagster layer: assets, checks, sensors, schedules, jobs and resources.

Bodies that one can read at a glance; whatever is worth testing alone belongs in the library."""
