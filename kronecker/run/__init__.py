"""The content of a run's folder; everything after training reads only this."""
