"""Numbers of a set of images against a reference, warnings about both, and what they came from.

Public names: `metrics/__init__.pyi`.
"""
