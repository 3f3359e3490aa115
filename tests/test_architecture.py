"""The code blocks of ARCHITECTURE.md run, in order, in one namespace."""

import re
from pathlib import Path

TEXT = Path(__file__).parent.parent.joinpath("ARCHITECTURE.md").read_text()


def test_blocks_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) >= 7
    namespace = {}
    for block in blocks:
        exec(compile(block, "ARCHITECTURE.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "spec=bernoulli(logits)" in printed
    assert "sub {(0,)} term" in printed
