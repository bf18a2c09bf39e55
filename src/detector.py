# SPDX-License-Identifier: Apache-2.0
"""`Detector` under the name that users import it by; it lives in `src/inference/detector.py`."""

from .inference.detector import Detector

__all__ = ["Detector"]
