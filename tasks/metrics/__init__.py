"""Metrics behind the `evaluate` API, defined here so that scoring needs no network."""
