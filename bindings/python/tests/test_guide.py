"""The guide is a program that runs."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="a model's graph is read from an ONNX export")

GUIDE = Path(__file__).parents[3] / "docs" / "src" / "pytorch.md"


def test_the_blocks_of_the_guide_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) >= 8
    names = {}
    for block in blocks:
        # Errors tell the line of the guide.
        lines = "\n" * (text[: block.start(1)].count("\n"))
        exec(compile(lines + block[1], str(GUIDE), "exec"), names)
    assert (tmp_path / "model.svdo").stat().st_size == len(names["report"].data)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + names["epochs"]
