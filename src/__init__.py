# SPDX-License-Identifier: Apache-2.0
"""M2Det for MindSpore.

What happens on import, because it must come before MindSpore's and every program, test and
notebook that uses the project passes here: a setting of oneDNN, only where it is needed; and
MindSpore, whose warnings would drown everything else, shows errors only, unless GLOG_v asks for
more.
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
