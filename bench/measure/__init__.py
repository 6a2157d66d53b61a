"""Meters: each number in a record is defined in one of these modules."""
