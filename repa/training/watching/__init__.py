"""What a person sees of a run: held-out loss, evaluation on the way, curves."""
