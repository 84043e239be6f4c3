"""Many runs: their plan, their cost, and what launches them."""
