# SPDX-License-Identifier: Apache-2.0
"""Which file may import which: the rules of docs/development.md."""

import ast
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# A room may use those before it; "" are the files right in multilabel/.
ROOMS = ["common", "", "features", "storage", "inference", "export",
         "reporting", "training", "serving"]
LIBRARIES = ("modeling", "tokenization", "optimization")
# The original's names, and the interface of the processors.
PASS_THROUGH = ("run_multilabel_classifier", "processors")


def modules():
  """{module name: path} of the code that is installed."""
  found = {}
  for name in sorted(os.listdir(ROOT)):
    if name.endswith(".py") and name != "setup.py":
      found[name[:-3]] = os.path.join(ROOT, name)
  for top in ("multilabel", "processors"):
    for folder, _, names in os.walk(os.path.join(ROOT, top)):
      for name in names:
        if name.endswith(".py"):
          path = os.path.join(folder, name)
          module = os.path.relpath(path, ROOT)[:-3].replace(os.sep, ".")
          found[module.replace(".__init__", "")] = path
  return found


MODULES = modules()
TREES = {}
for module_name, module_path in MODULES.items():
  with open(module_path, encoding="utf-8") as reader:
    TREES[module_name] = ast.parse(reader.read())
PROGRAMS = [name for name in MODULES
            if "." not in name and name not in LIBRARIES + ("processors",
                                                            "multilabel")]


def imports(name):
  """[(line, module, name taken from it or None)] of project modules."""
  found = []
  for node in ast.walk(TREES[name]):
    if isinstance(node, ast.Import):
      found += [(node.lineno, alias.name, None) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        full = "%s.%s" % (node.module, alias.name)
        found.append((node.lineno, full, None) if full in MODULES else
                     (node.lineno, node.module, alias.name))
  return [one for one in found if one[1] in MODULES]


def room(name):
  """Place of a module's room in `ROOMS`; None outside of multilabel/."""
  parts = name.split(".")
  if parts[0] != "multilabel" or len(parts) == 1:
    return None
  return ROOMS.index(parts[1] if len(parts) > 2 else
                     parts[1] if parts[1] in ROOMS else "")


def test_the_root_is_small():
  assert len([name for name in os.listdir(ROOT) if name.endswith(".py") and
              name != "setup.py"]) <= 12


@pytest.mark.parametrize("name", sorted(
    name for name in MODULES
    if name in LIBRARIES or name.split(".")[0] == "processors"))
def test_libraries_and_processors_stand_alone(name):
  allowed = LIBRARIES if name in LIBRARIES else ("processors",)
  wrong = [one for one in imports(name)
           if one[1].split(".")[0] not in allowed]
  assert wrong == []


@pytest.mark.parametrize("name", sorted(
    name for name in MODULES if name.startswith("multilabel.")))
def test_rooms_do_not_climb(name):
  here, wrong = room(name), []
  for line, module, _ in imports(name):
    there = room(module)
    if module in PROGRAMS or (there is not None and there > here) or (
        {ROOMS[here], ROOMS[there] if there is not None else None} ==
        {"training", "reporting"}):
      wrong.append((line, module))
  assert wrong == []


def test_there_are_no_circles():
  state = {}

  def visit(name, way):
    if state.get(name) == "done":
      return
    assert name not in way, " > ".join(way + [name])
    for _, module, _ in imports(name):
      if module != name:
        visit(module, way + [name])
    state[name] = "done"

  for name in sorted(MODULES):
    visit(name, [])


def defined(tree):
  """Names that a module makes itself, at its top."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      names.add(node.name)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      names.add(node.id)
  return names


@pytest.mark.parametrize("name", sorted(MODULES))
def test_names_come_from_where_they_are_made(name):
  wrong = []
  for line, module, taken in imports(name):
    if taken is not None and module not in PASS_THROUGH and (
        taken not in defined(TREES[module])):
      wrong.append((line, module, taken))
  assert wrong == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_files_and_functions_are_short(name):
  with open(MODULES[name], encoding="utf-8") as source:
    lines = len(source.readlines())
  assert lines <= 600 or name == "modeling"
  long = []
  for node in ast.walk(TREES[name]):
    if isinstance(node, ast.FunctionDef) and name not in LIBRARIES:
      first = node.body[0]
      docstring = (first.end_lineno - first.lineno + 1
                   if ast.get_docstring(node) is not None else 0)
      length = node.end_lineno - node.lineno + 1 - docstring
      if length > 60 and node.name != "define_flags":
        long.append((node.name, length))
  assert long == []


def loaded(program):
  """Names of the modules that a fresh process has after `program`."""
  code = program + "\nimport sys\nprint(' '.join(sorted(sys.modules)))"
  return subprocess.check_output(
      [sys.executable, "-c", code], cwd=ROOT,
      stderr=subprocess.DEVNULL).decode("utf-8").split()


def test_the_predictor_loads_no_training_module():
  names = loaded("import predict_session")
  assert "multilabel.inference.loaded_model" in names
  assert [name for name in names if name == "optimization" or
          name.startswith("multilabel.training")] == []


def test_the_onnx_predictor_loads_no_tensorflow():
  names = loaded("import predict_onnx, serve_http, explain_labels")
  assert "multilabel.inference.onnx_model" in names
  assert [name for name in names if name.split(".")[0] == "tensorflow" or
          name.startswith(("multilabel.training", "multilabel.export"))] == []
