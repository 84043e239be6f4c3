"""The paper author's package and PyTorch, which `make reference` installs."""

import pytest

from kronecker.benchmark import package

needed = pytest.mark.extras("" if package.installed() else "needs the author's package and PyTorch: make reference")
