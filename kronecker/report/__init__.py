"""Comparison of finished runs: token losses, paired differences and their intervals, tables, figures and pages."""
