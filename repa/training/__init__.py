"""Training: settings, losses, the loop, its state and its folder.

`settings` does not import torch.
"""
