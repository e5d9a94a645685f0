# SPDX-License-Identifier: Apache-2.0
"""docs/serving.md, of HTTP: its requests run, its flags and paths exist."""

import io
import json
import os
import re
import shutil
import subprocess

import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server
import tiny_bert

import serve_http


def document():
  with io.open(os.path.join(fake_server.ROOT, "docs", "serving.md"),
               encoding="utf-8") as reader:
    return reader.read().partition("\n# TensorFlow Serving\n")[0]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_requests_run_as_they_stand_there():
  commands = re.findall(r"^    (curl [^\n]*(?:\n      [^\n]*)*)$", document(),
                        re.M)
  assert len(commands) == 7
  with fake_server.start() as server:
    for command in commands:
      answer = json.loads(subprocess.check_output(
          ["sh", "-c", command.replace(":8501/", ":%d/" % server.port)],
          stderr=subprocess.DEVNULL).decode("utf-8"))
      assert "error" not in answer, command


def test_flags_exist():
  status, help_text, _, _ = tiny_bert.call(serve_http, ["--help"])
  assert status == 0
  known = set(re.findall(r"^  --(?:\[no\])?(\w+)", help_text, re.M))
  used = set(re.findall(r"--([a-z]\w+)", document())) - {"output_dir", "rm"}
  assert used
  assert used - known == set()
  assert "as_worker" not in known


def test_paths_are_those_that_are_described():
  with fake_server.start() as server:
    described = server.call("GET", "/openapi.json")[2]["paths"]
  written = set()
  for cell in re.findall(r"^\| (`(?:GET|POST) .*?) \|", document(), re.M):
    for path in re.findall(r"(/[^`, ]*)", cell.replace("multilabel", "NAME")):
      parts = re.split(r"\[(.*?)\]", path)
      forms = [""]
      for number, part in enumerate(parts):
        forms = [form + part for form in forms] + (
            forms if number % 2 else [])
      written.update(forms)
  assert written == {
      path.replace("multilabel", "NAME").replace("/versions/7", "/versions/V")
      for path in described}
