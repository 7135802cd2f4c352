"""Samplers: turn noise into data along a velocity. Knows velocities, not networks.

Time runs from t = 1 (noise) to t = 0 (data); states are float64, velocities are asked in the dtype
of the noise. The public names are listed in `__init__.pyi` and loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
