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


def test_readme_programs_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = Path(__file__).parent.parent.joinpath("README.md").read_text().replace("steps=3_000", "steps=30")
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
    assert (tmp_path / "launches.png").stat().st_size > 10_000
    assert "Exact(" in capsys.readouterr().out
