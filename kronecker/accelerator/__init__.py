"""The first measurements on a new accelerator, in parts with a time budget; each result is saved at once."""
