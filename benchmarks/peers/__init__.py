# SPDX-License-Identifier: Apache-2.0
"""What the project is measured against: PyTorch, ONNX Runtime, the official recipe and its data."""
