"""Pretrained models: how each family is loaded, where it keeps its parts, what each kind of task puts on top."""
