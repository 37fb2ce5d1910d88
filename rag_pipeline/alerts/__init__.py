"""Alerts: one message when something starts failing, one when it recovers, none in between.

`recording.record` takes what was observed (checks, runs, sensors) and stores what changed; `delivery.deliver` sends
what is stored to the receivers in `RAG_ALERT_URLS`. Both may be killed at any point and run again. Where
observations come from is not known here: the Dagster layer polls them.
"""
