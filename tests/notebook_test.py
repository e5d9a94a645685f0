# SPDX-License-Identifier: Apache-2.0
"""examples/notebook.ipynb runs from its first cell to its last as it stands."""

import os
import re

import pytest
import tiny_bert

PATH = os.path.join(tiny_bert.ROOT, "examples", "notebook.ipynb")


@pytest.mark.slow
def test_it_runs(monkeypatch):
  nbformat = pytest.importorskip("nbformat")
  nbclient = pytest.importorskip("nbclient")
  for name in ("ipykernel", "matplotlib"):
    pytest.importorskip(name)
  monkeypatch.delenv("ENCODER", raising=False)
  notebook = nbformat.read(PATH, as_version=4)
  nbformat.validate(notebook)
  assert not [cell for cell in notebook.cells if cell.get("outputs")]
  nbclient.NotebookClient(
      notebook, timeout=400, kernel_name="python3",
      resources={"metadata": {"path": os.path.dirname(PATH)}}).execute()
  outputs = [output for cell in notebook.cells
             for output in cell.get("outputs", ())]
  pictures = [output for output in outputs
              if "image/png" in output.get("data", {})]
  assert len(pictures) == 2
  printed = "".join(output["text"] for output in outputs
                    if output["output_type"] == "stream" and
                    output["name"] == "stdout")
  for part in ("dev", "test"):
    score = re.search(r"micro-F1 on %s: (\d\.\d+)" % part, printed).group(1)
    assert float(score) > 0.9
  assert "['delivery' 'price' 'quality']\n[[1 0 0]\n [0 1 1]]" in printed
