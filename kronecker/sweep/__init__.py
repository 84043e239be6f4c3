"""Many runs: their plan and their launchers."""
