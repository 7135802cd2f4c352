"""The manifest of images: what decides them, as JSON values, and back from there to their settings.

`writing.manifest_of` makes one, `recorded.read_recorded` reads that of a finished file, so that its
run can be repeated. How it stands in a file: `repa.generation.sample_files`.
"""
