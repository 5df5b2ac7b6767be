"""The operations that decide how fast a model runs, behind one seam.

A model is built with a :class:`Kernels` from :func:`resolve` and calls its operations; which implementation they are is
decided there and nowhere else.
"""

from .dispatch import ENVIRONMENT, MODES, Kernels, resolve
from .reference import Experts, Frequencies, Packed
from .views import DenseView, QuantizedView, View

__all__ = [
    "ENVIRONMENT",
    "MODES",
    "DenseView",
    "Experts",
    "Frequencies",
    "Kernels",
    "Packed",
    "QuantizedView",
    "View",
    "resolve",
]
