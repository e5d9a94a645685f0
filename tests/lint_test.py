# SPDX-License-Identifier: Apache-2.0
"""The linter of pyproject.toml finds nothing, where ruff is installed."""

import os
import shutil
import subprocess
import sys

import pytest


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def ruff():
  """The path of ruff, beside the running Python or on PATH."""
  beside = os.path.join(os.path.dirname(sys.executable), "ruff")
  found = beside if os.path.exists(beside) else shutil.which("ruff")
  if not found:
    pytest.skip("ruff is not installed")
  return found


def check(*arguments):
  return subprocess.run(
      [ruff(), "check", "--no-cache", "--output-format=concise"] +
      list(arguments), cwd=ROOT, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, encoding="utf-8")


def test_nothing_is_found():
  result = check(".")
  assert result.returncode == 0, result.stdout[-3000:]


def test_the_rules_are_in_force(tmp_path):
  path = tmp_path / "x.py"
  path.write_text("import os\ndef f(a=[]):\n  return b\n# %s\n" % (
      "a b " * 25))
  result = check("--config=" + os.path.join(ROOT, "pyproject.toml"), str(path))
  assert result.returncode == 1
  for rule in ("F401", "B006", "F821", "E501"):
    assert rule in result.stdout
