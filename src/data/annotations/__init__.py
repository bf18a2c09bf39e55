# SPDX-License-Identifier: Apache-2.0
"""Annotation formats to records: which layout a folder has, COCO, Pascal VOC."""
