"""Supernode: places and runs training jobs on clusters of mixed AI accelerators, by predicted step time."""

__version__ = "0.1.0"
