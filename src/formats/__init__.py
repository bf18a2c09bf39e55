# SPDX-License-Identifier: Apache-2.0
"""Networks on disk: checkpoints, MINDIR and ONNX files, PyTorch weights, each way."""
