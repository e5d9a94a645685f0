# SPDX-License-Identifier: Apache-2.0
"""Whether a file of results in a trained directory was written by a run.

The names are common: a folder may hold the user's notes under one of them. A
run replaces only what has the format of its own files.
"""

import json
import os

from multilabel.common import atomic_files


# More than the length of a line of predictions.
_START = 1 << 24


def check(output_dir, names):
  """Raises ValueError if a run would replace a file that is not from a run.

  Args:
    output_dir: str.
    names: iterable of str, the files that the run is going to write.
  """
  for name in names:
    path = os.path.join(output_dir, name)
    if os.path.lexists(path) and not is_own(path):
      raise ValueError(
          "%s exists and is not from a training run: move it away, or name "
          "another --output_dir." % path)


def is_own(path):
  """Whether a file has the format of a run's file of that name.

  Args:
    path: str; its extension determines the format. An empty file counts as a
      run's.

  Returns:
    bool; False for links and whatever is not a file.
  """
  if os.path.islink(path) or not os.path.isfile(path):
    return False
  ending = os.path.splitext(path)[1]
  with atomic_files.open_regular(path) as reader:
    start = reader.read(_START)
  if not start:
    return True
  try:
    return _FORMS[ending](start.decode("utf-8-sig", "ignore"))
  except (ValueError, RecursionError):
    return False


def _is_results(text):
  lines = text.rstrip("\n").split("\n")
  return all(" = " in line for line in lines) and any(
      line.startswith(("global_step = ", "num_examples = ")) for line in lines)


def _is_json_results(text):
  value = json.loads(text)
  return isinstance(value, dict) and "global_step" in value


def _is_predictions(text):
  value = json.loads(text.partition("\n")[0])
  return isinstance(value, dict) and (
      {"id", "text", "labels", "probabilities"} <= set(value))


def _is_table(text):
  return text.startswith("id,text") and ",labels," in text.partition("\n")[0]


def _is_probabilities(text):
  return all(0 <= float(value) <= 1
             for value in text.partition("\n")[0].split("\t"))


_FORMS = {".txt": _is_results, ".json": _is_json_results,
          ".jsonl": _is_predictions, ".csv": _is_table,
          ".tsv": _is_probabilities}
