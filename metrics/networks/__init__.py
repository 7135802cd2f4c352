"""Networks that measure: uint8 images to pooled features, spatial features and probabilities.

Each is given its weights; nothing here downloads.
"""

from metrics.networks.network import Features, MetricLabels, MetricNetwork, load_network

__all__ = ["Features", "MetricLabels", "MetricNetwork", "load_network"]
