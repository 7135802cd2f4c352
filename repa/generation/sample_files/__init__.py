"""The NPZ of a run that may be killed at any moment: its layout, its progress, how it is opened.

`opening.open_output` gives what is written to; what makes the images is not known here.
"""
