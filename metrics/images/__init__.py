"""What images come from: files, folders, arrays, noise; and a look at them as they pass.

Every source gives uint8 RGB in batches, in a fixed order, and a hash of its content. Public names:
`metrics/__init__.pyi`.
"""
