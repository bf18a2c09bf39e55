# SPDX-License-Identifier: Apache-2.0
"""Annotation formats to records: which layout a folder has, and a module for each format."""
