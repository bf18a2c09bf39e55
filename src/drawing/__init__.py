# SPDX-License-Identifier: Apache-2.0
"""Pictures: detections, data sets, what a network computes, curves, the report page."""
