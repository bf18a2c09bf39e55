# SPDX-License-Identifier: Apache-2.0
"""Detections of a whole split and what they are worth: COCO and VOC metrics, kinds of errors."""
