"""Generators of the built-in samples: all text is made up here, from templates and word lists."""
