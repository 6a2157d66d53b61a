"""A sweep under disturbances, and its results against those of an undisturbed one: `scripts/chaos.py`."""
