"""The compilers of devices that are not there, which tests of compiled programs need.

`make tpu` and `make gpu` install them.
"""

import pytest

from kronecker.cross_compile import compilers

NEEDS_TPU = pytest.mark.extras("" if compilers.libtpu() else "needs the TPU compiler: make tpu")
NEEDS_GPU = pytest.mark.extras("" if compilers.cuda() else "needs the GPU compiler: make gpu")
