"""Benchmarks that compare: all contenders in one run, taking turns, on ids of real text."""
