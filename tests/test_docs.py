"""The Python blocks of every page of docs/ run, in order, in one namespace for each page."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)


def test_a_strategy_takes_fewer_than_forty_lines():
    page = Path(__file__).parent.parent / "docs" / "your_own_strategy.md"
    block = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)[0]
    assert "ppl.Strategy" in block
    assert len(block.splitlines()) < 40


def test_there_are_pages():
    assert {"how_to_choose", "your_own_strategy"} <= {page.stem for page in PAGES}
