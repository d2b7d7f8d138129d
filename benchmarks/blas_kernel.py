"""Import this before NumPy: OpenBLAS then chooses its kernel for this processor, whatever the environment says."""

import os

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)
