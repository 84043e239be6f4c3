"""From the files that runs wrote to a verdict: read them (runs), pair them (compare), show them (the rest)."""
