"""The training loop and what it is made of: order of examples, schedules, checkpoints, several processes."""
