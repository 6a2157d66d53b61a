"""Benchmark tasks: what is scored, on what data, by which metric."""
