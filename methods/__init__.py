"""Adaptation methods: one file each, one contract (`methods/base.py`)."""
