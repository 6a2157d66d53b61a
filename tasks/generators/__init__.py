"""Images drawn from factors, for built-in samples of the vision tasks: never a substitute for the real data."""
