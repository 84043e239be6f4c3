"""What runs a sweep: children of this process, one or several at a time, or jobs of a cluster."""
