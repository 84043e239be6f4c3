"""Models in the form of other tools, both ways, and a code in place of a published model's table."""
