"""The compilers of devices that are not there, which tests of compiled programs need.

`make tpu` and `make gpu` install them.  Without one its tests skip, or fail where KRONECKER_REQUIRE_COMPILERS=1, which
.ci/run sets.
"""

import os

import pytest

from kronecker.cross_compile import compilers

REQUIRED = os.environ.get("KRONECKER_REQUIRE_COMPILERS") == "1"
NEEDS_TPU = pytest.mark.skipif(not REQUIRED and compilers.libtpu() is None, reason="needs the TPU compiler: make tpu")
NEEDS_GPU = pytest.mark.skipif(not REQUIRED and compilers.cuda() is None, reason="needs the GPU compiler: make gpu")
