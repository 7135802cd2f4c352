"""One pass over images: a network's features to statistics, to the feature cache, and to findings.

Several processes may share the pass. Nothing is compared here. Public names:
`metrics/__init__.pyi`.
"""

from repa_base.processes import Processes as Processes
