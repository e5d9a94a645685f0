# SPDX-License-Identifier: Apache-2.0
"""Which probabilities of a text are written: --probabilities.

With tens of thousands of labels a row of all would be a megabyte a text.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import re

import numpy as np

ALL = "all"
LABELS = "labels"

# Without being asked, an answer over HTTP holds all of so many labels, and of
# more labels the highest few.
MAX_ANSWERED = 1000
MANY_ANSWERED = 100

HELP = ("Which are written to JSON lines: all, labels (those of the labels "
        "given), or a number, so many of the highest.")


def parse(text):
  """`ALL`, `LABELS` or an int above 0, of the flag; ValueError for another."""
  if text in (ALL, LABELS):
    return text
  if re.match("[0-9]{1,9}$", text) and int(text):
    return int(text)
  raise ValueError("--probabilities is %s; it must be all, labels, or a number "
                   "above 0." % text)


def default_answer(num_labels):
  """Which probabilities an answer holds where the client does not say."""
  return ALL if num_labels <= MAX_ANSWERED else MANY_ANSWERED


def columns(row, chosen, which):
  """The columns to write, in the order to write them.

  Args:
    row: float `[num_labels]`, a text's probabilities.
    chosen: bool `[num_labels]`, the labels given.
    which: what `parse` returned.

  Returns:
    k ints: all from the first on; or the labels given, or the `which` most
    probable ones, the most probable first and equal ones by their column.
  """
  if which == ALL:
    return range(len(row))
  if which == LABELS:
    found = np.flatnonzero(chosen)
  elif which >= len(row):
    found = np.arange(len(row))
  else:
    # Linear in the labels; only what may be among the highest is sorted.
    found = np.flatnonzero(row >= np.partition(row, -which)[-which])
  order = found[np.argsort(-row[found], kind="mergesort")]
  return (order if which == LABELS else order[:which]).tolist()
