"""Training: what a step consumes, the step, the loop around it, its state and its folder.

`settings` does not import torch.
"""
