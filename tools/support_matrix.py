"""Write SUPPORT.md anew from the table that the tests check: `python tools/support_matrix.py`."""

import sys
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
jax.config.update("jax_enable_x64", True)

from tests.support.table import table  # noqa: E402 - after the path is set

if __name__ == "__main__":
    (ROOT / "SUPPORT.md").write_text(table())
