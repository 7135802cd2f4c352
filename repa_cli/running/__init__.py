"""How a command runs: its first moments, and several processes of it."""
