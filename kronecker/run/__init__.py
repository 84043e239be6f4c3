"""What a run's folder holds; everything downstream reads this alone."""
