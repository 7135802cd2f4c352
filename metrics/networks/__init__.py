"""Networks that measure: uint8 images to pooled features, spatial features and probabilities.

Each is given its weights; nothing here downloads. Public names: `metrics/__init__.pyi`.
"""
