"""Makes the root importable (configs/ and kronecker/), as it is for train.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
