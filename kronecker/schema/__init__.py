"""What a config may say: its values, how it is loaded, what is derived from it, what is refused."""
