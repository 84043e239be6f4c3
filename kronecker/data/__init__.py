"""Data: where text comes from (sources), its preparation (preparation), batches as a function of the step (rows)."""
