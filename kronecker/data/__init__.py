"""Data: what text (sources), prepared once (prepare), and a batch as a function of the step (rows)."""
