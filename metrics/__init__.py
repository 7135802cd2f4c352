"""Metrics of generated images: FID, sFID, Inception Score, precision and recall.

Images go in as uint8, NHWC; what is compared are the features of a metric network, through which
they pass once for all metrics. The mathematics
(`frechet_distance`, `inception_score`, `precision_recall`) stands alone and takes any features.
Knows nothing of diffusion. What a user's file can cause is an `InputError`.

The public names are listed in `__init__.pyi` and loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
