# SPDX-License-Identifier: Apache-2.0
"""One `DataProcessor`, by whichever name a user's file imports it.

In a clone this package is `processors`, in the installed library
`bert_multilabel.processors`. A file that uses the other name would import a
second copy, whose classes differ from those that the program checks.
"""

import importlib
import importlib.util
import sys


NAMES = ("processors", "bert_multilabel.processors")


def alias(package):
  """Makes this package known by its other name, unless that is taken.

  Args:
    package: str, the name by which it was imported, one of `NAMES`.
  """
  other = NAMES[1 - NAMES.index(package)]
  if other in sys.modules or _is_importable(other):
    return
  for name in sorted(sys.modules):
    if name == package or name.startswith(package + "."):
      sys.modules[other + name[len(package):]] = sys.modules[name]
  parent, _, last = other.rpartition(".")
  if parent:
    setattr(sys.modules[parent], last, sys.modules[package])


def _is_importable(name):
  """Whether there is a module of that name; its parents are imported."""
  parent = name.rpartition(".")[0]
  if parent:
    try:
      importlib.import_module(parent)
    except ImportError:
      return True  # its contents cannot be imported
  return importlib.util.find_spec(name) is not None
