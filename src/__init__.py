# SPDX-License-Identifier: Apache-2.0
"""M2Det for MindSpore.

Every program, test and notebook imports this package before MindSpore, so two settings are made
here: oneDNN's instruction set, where a release needs it, and MindSpore's log level, whose warnings
would drown everything else: errors only, unless GLOG_v asks for more.
"""

import os
from typing import TYPE_CHECKING, Any

from .runtime.cpu_settings import avoid_reference_convolution

if TYPE_CHECKING:
    from .detector import Detector

__all__ = ["Detector"]

avoid_reference_convolution(os.environ)
os.environ.setdefault("GLOG_v", "3")


def __getattr__(name: str) -> Any:
    """`from m2det import Detector`, imported only then."""
    if name != "Detector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .detector import Detector

    return Detector
