"""A run on disk: its folder and settings there, its state, what it starts from and goes on from."""
