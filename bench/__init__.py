"""The harness: composes a run, trains, measures, records and ranks it."""
