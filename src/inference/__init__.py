# SPDX-License-Identifier: Apache-2.0
"""An image to boxes: views, the network, post-processing, merging; sources and result files."""
