# SPDX-License-Identifier: Apache-2.0
"""What was learned by training: choices of the recipe, ceilings, input sizes."""
