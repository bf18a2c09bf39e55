# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs: the CUDA libraries MindSpore needs, and a check of driver, libraries and device."""
