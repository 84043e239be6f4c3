"""What to run first on an accelerator that was never seen: parts with a budget of time, each result kept at once."""
