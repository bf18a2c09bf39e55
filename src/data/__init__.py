# SPDX-License-Identifier: Apache-2.0
"""Data sets on disk to batches: annotations, images, augmentation, the MindData pipeline."""
