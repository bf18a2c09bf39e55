# SPDX-License-Identifier: Apache-2.0
"""Training: the job, its parts and the loop; one step, optimisers, schedule, checkpoints, logs."""
