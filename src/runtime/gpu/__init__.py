# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs: the libraries they need, what was found, a trial."""
