"""Benchmarks on ids of real text, in which all contenders are timed in turns, within one run."""
