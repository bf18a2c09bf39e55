# SPDX-License-Identifier: Apache-2.0
"""Detecting in a whole split and scoring: COCO and VOC metrics, errors by kind."""
