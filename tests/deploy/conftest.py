from __future__ import annotations

import sys
from pathlib import Path

# stand-ins of these tests, as an importable module
sys.path.insert(0, str(Path(__file__).parent))
