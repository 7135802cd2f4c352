"""The ground floor: files, locks, downloads, checksums, processes and devices, each written once.

Everything above may use it; it knows neither images nor models. Importing it, or any of its files
but `processes` and `device`, does not import torch.
"""
