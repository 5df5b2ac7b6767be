"""The operations that decide how fast a model runs, behind one seam.

A model is built with a :class:`Kernels` from :func:`resolve` and calls its operations; which implementation they are is
decided there and nowhere else.
"""

from .dispatch import ENVIRONMENT, MODES, Kernels, resolve
from .reference import Experts, Frequencies, Norms, Packed, norms, second_thread
from .views import Bounded, DenseView, Entry, Lengths, PackedView, Packing, View

__all__ = [
    "ENVIRONMENT",
    "MODES",
    "Bounded",
    "DenseView",
    "Entry",
    "Experts",
    "Frequencies",
    "Kernels",
    "Lengths",
    "Norms",
    "Packed",
    "PackedView",
    "Packing",
    "View",
    "norms",
    "resolve",
    "second_thread",
]
