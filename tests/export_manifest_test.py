# SPDX-License-Identifier: Apache-2.0
"""Tests of an export's manifest: each file changed, missing, another run's."""

import hashlib
import json
import os
import shutil

import pytest

from multilabel.export import export_manifest


FILES = {"saved_model.pb": b"graph", "variables/variables.index": b"index",
         "variables/variables.data-00000-of-00001": b"\0\1\2\3",
         "assets.extra/labels.txt": b"a\nb\n",
         "assets.extra/model_settings.json": b"{}"}
MANIFEST = "assets.extra/manifest.json"


def make(folder, **changes):
  """Writes an export; `changes` are other contents, by the start of a name."""
  for name in FILES:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as writer:
      writer.write(changes.get(name.split(".")[0], FILES[name]))
  export_manifest.write(folder, {"step": 7})
  return folder


@pytest.fixture
def export(tmp_path):
  return make(str(tmp_path / "export" / "1"))


def test_holds_every_file(export):
  with open(os.path.join(export, MANIFEST)) as reader:
    content = json.load(reader)
  assert content["model"] == {"step": 7}
  assert content["files"] == {
      name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
      for name, data in FILES.items()}
  assert export_manifest.find_problem(export) is None
  export_manifest.check(export)


@pytest.mark.parametrize("name", sorted(FILES))
def test_names_the_file_that_changed(name, export):
  path = os.path.join(export, name)
  data = FILES[name]
  for other in (data[:-1], data + b"\0", data[:-1] + b"\7", b""):
    with open(path, "wb") as writer:
      writer.write(other)
    assert export_manifest.find_problem(export) == (
        "%s does not belong to this export (its sha256 differs from the one in "
        "assets.extra/manifest.json); restore the exported file, or export "
        "again." % name)
  os.remove(path)
  assert export_manifest.find_problem(export) == (
      "%s is missing; restore the exported file, or export again." %
      name)
  with pytest.raises(ValueError, match="export/1: %s is missing; " % name):
    export_manifest.check(export)


@pytest.mark.parametrize("name", [
    name for name in sorted(FILES) if name.startswith("variables/")] + [
        MANIFEST])
def test_files_of_another_run(name, export, tmp_path):
  other = make(str(tmp_path / "other"), **{
      "variables/variables": b"\4\5\6\7"})
  shutil.copyfile(os.path.join(other, name), os.path.join(export, name))
  assert " does not belong to this export" in export_manifest.find_problem(
      export)


def test_broken_manifest(export):
  path = os.path.join(export, MANIFEST)
  with open(path, "rb") as reader:
    data = reader.read()
  for changed in (b"", data[:-3], data.replace(b'"step": 7', b'"step": 8')):
    with open(path, "wb") as writer:
      writer.write(changed)
    problem = export_manifest.find_problem(export)
    assert problem.startswith(path + " ")
    assert problem.endswith("; restore the original, or export again.")
  os.remove(path)
  assert export_manifest.find_problem(export) == (
      "assets.extra/manifest.json is missing, so the files cannot be verified; "
      "restore it, or export again.")
  # A sealed file of another kind.
  shutil.copyfile(os.path.join(export, "assets.extra", "model_settings.json"),
                  path)
  assert path in export_manifest.find_problem(export)


def test_an_export_of_another_program(tmp_path):
  (tmp_path / "saved_model.pb").write_bytes(b"graph")
  assert export_manifest.find_problem(str(tmp_path)) is None
