"""Alerts: one message when something starts failing, one when it recovers, none in between.

`recording.record` compares observations (of checks, runs, sensors, schedules) with the stored states and stores an
alert for each change; `delivery.deliver` sends the stored alerts to the receivers in `RAG_ALERT_URLS`. Both can be
killed at any point and run again. The observations come from the Dagster layer; nothing here depends on Dagster.
"""
