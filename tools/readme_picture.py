"""Make the picture that README.md shows, by the very program that it shows: `python tools/readme_picture.py`."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "launches.png"


def main() -> None:
    """Run the program in `docs/`, where it leaves its picture."""
    sys.path.insert(0, str(ROOT))
    os.environ["MPLBACKEND"] = "Agg"
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (program,) = [block for block in blocks if NAME in block]
    (ROOT / "docs").mkdir(exist_ok=True)
    os.chdir(ROOT / "docs")
    exec(compile(program, "README.md", "exec"), {})


if __name__ == "__main__":
    main()
