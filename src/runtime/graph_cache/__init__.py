# SPDX-License-Identifier: Apache-2.0
"""Compiled graphs, kept between runs."""
