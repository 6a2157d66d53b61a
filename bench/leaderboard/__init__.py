"""From records to tables that people read."""
