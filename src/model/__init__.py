# SPDX-License-Identifier: Apache-2.0
"""The network: backbone, multi-level feature pyramid (or an SSD neck), prediction head."""

from .m2det import M2Det, build_model

__all__ = ["M2Det", "build_model"]
