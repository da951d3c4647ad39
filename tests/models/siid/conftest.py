import sys
from pathlib import Path

# the small pair of these tests, as an importable module
sys.path.insert(0, str(Path(__file__).parent))
