"""Data: what text (sources), prepared once (preparation), and a batch as a function of the step (rows)."""
