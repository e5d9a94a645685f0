# SPDX-License-Identifier: Apache-2.0
"""What the project's own code must never do with what strangers wrote.

No pickle is loaded, nothing is evaluated, no shell gets a text, no archive is
unpacked as a whole. The rules are looked up in the syntax tree of each file.
"""

import ast
import io
import os

import pytest


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib",
            "shelve", "marshal", "yaml", "jsonpickle", "telnetlib", "pty")
_BUILTINS = ("eval", "exec", "compile", "__import__", "execfile")
# Of whatever module: nothing harmless here has these names.
_ATTRIBUTES = ("mktemp", "extractall", "unpack_archive", "popen", "spawnl",
               "load_module", "read_pickle", "getoutput", "getstatusoutput",
               "exec_module")
# numpy's functions that unpickle unless told otherwise.
_NUMPY = ("np", "numpy")

_ALLOWED = {
    # The user's own processor is code, and run as such.
    os.path.join("processors", "__init__.py"): ("exec_module",),
    # The archive is the one that git makes of this repository.
    os.path.join("benchmarks", "compare.py"): ("extractall",),
}


def project_files():
  """Yields every Python file of the project but the tests."""
  for folder, folders, names in os.walk(ROOT):
    folders[:] = [name for name in folders
                  if not name.startswith((".", "__")) and name not in (
                      "tests", "demo_work", "experiments_work", "build",
                      "dist", "venv")]
    for name in names:
      if name.endswith(".py"):
        yield os.path.join(folder, name)


def complaints(source, path=""):
  """[(line, what)] of all that breaks a rule."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      names = [alias.name for alias in node.names]
      if isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
      found += [(node.lineno, "import " + name) for name in names
                if name.split(".")[0] in _MODULES]
    elif isinstance(node, ast.Call):
      found += [(node.lineno, what) for what in _of_call(node)
                if what not in _ALLOWED.get(path, ())]
  return found


def _of_call(node):
  keywords = {keyword.arg: keyword.value for keyword in node.keywords}
  shell = keywords.get("shell")
  if shell is not None and not _is(shell, False):
    yield "shell"
  if isinstance(node.func, ast.Name):
    if node.func.id in _BUILTINS:
      yield node.func.id
  elif isinstance(node.func, ast.Attribute):
    name = node.func.attr
    owner = node.func.value
    owner = owner.id if isinstance(owner, ast.Name) else ""
    if name in _ATTRIBUTES or (owner, name) == ("os", "system"):
      yield name
    if owner in _NUMPY and name in ("load", "save") and not _is(
        keywords.get("allow_pickle"), False):
      yield "%s.%s without allow_pickle=False" % (owner, name)
    if owner == "torch" and name == "load":
      yield "torch.load"


def _is(node, value):
  """Whether a node is that constant; one class of node before Python 3.8."""
  return getattr(node, "value", None) is value


def test_no_rule_is_broken():
  paths = list(project_files())
  assert len(paths) > 60
  broken = []
  for path in paths:
    with io.open(path, encoding="utf-8") as reader:
      inside = os.path.relpath(path, ROOT)
      broken += ["%s:%d: %s" % ((inside,) + what)
                 for what in complaints(reader.read(), inside)]
  assert broken == []


@pytest.mark.parametrize("line, what", [
    ("import pickle", "import pickle"),
    ("from yaml import load", "import yaml"),
    ("import joblib.x as y", "import joblib.x"),
    ("eval(text)", "eval"),
    ("exec(text)", "exec"),
    ("compile(text, 'a', 'exec')", "compile"),
    ("subprocess.run(text, shell=True)", "shell"),
    ("subprocess.run(text, shell=flag)", "shell"),
    ("os.system(text)", "system"),
    ("os.popen(text)", "popen"),
    ("tempfile.mktemp()", "mktemp"),
    ("archive.extractall(folder)", "extractall"),
    ("shutil.unpack_archive(path)", "unpack_archive"),
    ("np.load(path)", "np.load without allow_pickle=False"),
    ("np.load(path, allow_pickle=True)", "np.load without allow_pickle=False"),
    ("numpy.save(path, x)", "numpy.save without allow_pickle=False"),
    ("torch.load(path)", "torch.load"),
    ("loader.exec_module(module)", "exec_module"),
])
def test_the_rules_see(line, what):
  assert complaints("if x:\n  " + line + "\n") == [(2, what)]


@pytest.mark.parametrize("line", [
    "np.load(path, allow_pickle=False)", "model.eval()", "json.load(reader)",
    "subprocess.run(command, shell=False)", "platform.system()",
    "re.compile(pattern)", "tempfile.mkdtemp()", "wheel.open(member)"])
def test_the_rules_pass_over(line):
  assert complaints(line) == []
