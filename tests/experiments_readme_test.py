# SPDX-License-Identifier: Apache-2.0
"""The commands and flag files of experiments/ name flags that exist."""

import contextlib
import glob
import importlib
import io
import os
import re

import pytest
import tiny_bert


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "experiments")
FLAG_FILES = sorted(glob.glob(os.path.join(FOLDER, "*", "*.txt")))


def read(path):
  with io.open(path, encoding="utf-8") as reader:
    return reader.read()


def help_flags(name):
  """The flags that a program's --help names."""
  module = importlib.import_module(name)
  if hasattr(module, "__path__"):
    module = importlib.import_module(name + ".__main__")
  if hasattr(module, "define_flags"):
    _, text, _, _ = tiny_bert.call(module, ["--help"])
  else:
    with pytest.raises(SystemExit), contextlib.redirect_stdout(
        io.StringIO()) as output:
      module.main(["--help"])
    text = output.getvalue()
  return set(re.findall(r"--(?:\[no\])?(\w+)", text))


def commands():
  """{module: flags that its commands in the README use}."""
  found = {}
  for module, line in re.findall(
      r"python3? -m (experiments[\w.]*)((?:[^\n]*\\\n)*[^\n]*)",
      read(os.path.join(FOLDER, "README.md"))):
    found.setdefault(module, set()).update(re.findall(r" --(\w+)", line))
  return found


@pytest.fixture(name="run_flags", scope="module")
def run_flags_fixture():
  return help_flags("run_multilabel_classifier") | {"flagfile"}


def test_every_program_is_named():
  modules = {"experiments." + os.path.basename(path)[:-len(".py")]
             for path in glob.glob(os.path.join(FOLDER, "*.py"))
             if "__main__" in read(path)}
  assert modules - set(commands()) == set()


@pytest.mark.parametrize("module", sorted(commands()))
def test_commands(module, run_flags):
  assert commands()[module] - help_flags(module) - run_flags == set()


@pytest.mark.parametrize("path", FLAG_FILES, ids=[
    os.path.relpath(path, FOLDER) for path in FLAG_FILES])
def test_flag_files(path, run_flags):
  lines = read(path).splitlines()
  flags = [line for line in lines if not line.startswith("#")]
  assert flags
  assert all(re.match(r"--(no)?\w+(=\S+)?$", line) for line in flags)
  assert set(re.findall(r"^--(\w+)", "\n".join(flags), re.M)) <= run_flags


def test_flag_files_named_are_there():
  for name in re.findall(r"--flagfile=(\S+)", read(
      os.path.join(FOLDER, "README.md"))):
    assert os.path.isfile(os.path.join(ROOT, name)), name
