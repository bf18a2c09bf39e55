# SPDX-License-Identifier: Apache-2.0
"""Pictures: detections, data sets, activations, curves, the report page."""
