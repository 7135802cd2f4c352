"""Seeds to images: settings, sampling, and the sample file that survives a kill.

`settings` does not import torch.
"""
