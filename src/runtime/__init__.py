# SPDX-License-Identifier: Apache-2.0
"""The machine: device, ranks, files, threads, signals, GPU libraries, cache of graphs."""
