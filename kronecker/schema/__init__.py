"""Configs: their keys and allowed values, how files are loaded, what is derived, what is refused."""
