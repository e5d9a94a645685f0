# SPDX-License-Identifier: Apache-2.0
"""The build backend: setuptools, with all of the project inside one package.

In the repository, modules are side by side and say `import modeling`. In the
wheel they are in `bert_multilabel`, where the same line has to be
`from bert_multilabel import modeling`. The lines are rewritten while the wheel
is built; one that cannot be rewritten fails the build.
"""

import ast
import os
import re
import shutil

from setuptools.build_meta import *  # noqa: F401,F403  the backend's functions
from setuptools.command.build_py import build_py

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = "bert_multilabel"
ROOMS = ("multilabel", "processors")


class BuildError(Exception):
  """A line of the source does not fit into the package."""


def modules():
  """The files of the package: {path in the repository: path in the package}.

  Those of the root, and all in `ROOMS`; anything else is not installed.
  """
  found = {}
  for name in sorted(os.listdir(ROOT)):
    if name.endswith(".py") and name != "setup.py":
      found[name] = name
  for room in ROOMS:
    for folder, folders, names in os.walk(os.path.join(ROOT, room)):
      folders[:] = sorted(set(folders) - {"__pycache__"})
      for name in sorted(names):
        if not name.endswith((".pyc", ".pyo")):
          path = os.path.relpath(os.path.join(folder, name), ROOT)
          found[path] = path
  return found


def own_names(paths):
  """The first parts of the names by which the project imports itself: set."""
  return {path[:-len(".py")] for path in paths
          if os.sep not in path and path.endswith(".py")} | set(ROOMS)


def rewrite(source, path, names):
  """The source of a module as it is in the package.

  Args:
    source: str.
    path: str, where it comes from, for messages.
    names: set of str, see `own_names`.

  Returns:
    str, with as many lines.

  Raises:
    BuildError: an import cannot be rewritten, or a string holds one.
  """
  lines = source.split("\n")
  tree = ast.parse(source, path)
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      ours = [alias for alias in node.names
              if alias.name.partition(".")[0] in names]
      if not ours:
        continue
      alias = ours[0]
      if len(node.names) > 1 or ("." in alias.name and not alias.asname):
        raise BuildError(
            "%s:%d: import one module per line, and a module of a package with "
            "from ... import ..." % (path, node.lineno))
      room, _, name = alias.name.rpartition(".")
      old = r"^(\s*)import\s+%s\b" % re.escape(alias.name)
      new = r"\1from %s import %s" % (
          ".".join(filter(None, [PACKAGE, room])), name)
    elif isinstance(node, ast.ImportFrom):
      if node.level or (node.module or "").partition(".")[0] not in names:
        continue
      old = r"^(\s*)from\s+%s\s+import\b" % re.escape(node.module)
      new = r"\1from %s.%s import" % (PACKAGE, node.module)
    else:
      continue
    line, count = re.subn(old, new, lines[node.lineno - 1])
    if count != 1:
      raise BuildError("%s:%d: this import shares its line with other code: "
                       "%s" % (path, node.lineno,
                                     lines[node.lineno - 1].strip()))
    lines[node.lineno - 1] = line
  rewritten = "\n".join(lines)
  _check(ast.parse(rewritten, path), path, names)
  return rewritten


def _check(tree, path, names):
  """Raises BuildError for a name of ours that the package does not have."""
  pattern = re.compile(
      r"(?:^|\n)\s*(?:from|import)\s+(?:%s)\b|^(?:%s)(?:\.\w+)+$" % (
          ("|".join(sorted(names)),) + ("|".join(ROOMS),)))
  documentation = {
      id(node.body[0].value) for node in ast.walk(tree)
      if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and
      node.body and isinstance(node.body[0], ast.Expr)}
  for node in ast.walk(tree):
    # A string is ast.Str in Python 3.7, ast.Constant since.
    text = getattr(node, "value" if type(node).__name__ == "Constant" else "s",
                   None)
    if isinstance(text, str) and id(node) not in documentation and (
        pattern.search(text)):
      raise BuildError("%s:%d: this string is a module name of the repository; "
                       "build it from __name__: %r" % (
                           path, node.lineno, text[:80]))


def extras(*names):
  """Some of the extras of pyproject.toml: {name: list of requirements}."""
  with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as reader:
    text = reader.read()
  return {name: re.findall(r'^\s*"(.*)",$', re.search(
      r"^%s = \[\n(.*?)^\]" % name, text, re.M | re.S).group(1), re.M)
          for name in names}


class BuildPackage(build_py):
  """Copies the project into `bert_multilabel`, its imports rewritten."""

  def run(self):
    super().run()
    if getattr(self, "editable_mode", False):
      return  # the folder of the clone, which finds its own modules
    target = os.path.join(self.build_lib, PACKAGE)
    paths = modules()
    names = own_names(paths)
    for path, inside in sorted(paths.items()):
      place = os.path.join(target, inside)
      self.mkpath(os.path.dirname(place))
      if not path.endswith(".py"):
        shutil.copyfile(os.path.join(ROOT, path), place)
        continue
      with open(os.path.join(ROOT, path), encoding="utf-8") as reader:
        source = reader.read()
      with open(place, "w", encoding="utf-8") as writer:
        writer.write(rewrite(source, path, names))
