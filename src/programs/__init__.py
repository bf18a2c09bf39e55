# SPDX-License-Identifier: Apache-2.0
"""The command `m2det`: one module for each subcommand, and the flags of all."""
