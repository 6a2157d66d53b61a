"""Many runs as one: planned before the first starts, tuned with equal budgets, carried out one after another."""
