"""Commands about checkpoints: looking at one, writing one anew, and what is registered."""
