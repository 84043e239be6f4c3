"""A decoder around an input embedding."""
