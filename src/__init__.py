# SPDX-License-Identifier: Apache-2.0
"""M2Det for MindSpore.

The one thing that happens on import, because it must come before MindSpore's first convolution and
every program, test and notebook that uses the project passes here: a setting of oneDNN, only where
it is needed.
"""

import os

from .runtime.cpu_settings import avoid_reference_convolution

avoid_reference_convolution(os.environ)
