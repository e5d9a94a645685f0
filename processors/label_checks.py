# SPDX-License-Identifier: Apache-2.0
"""Labels that cannot be learned, and labels that are likely mistakes."""

import os

from processors import base
from processors import label_names
from processors.text_lines import list_names
from processors.text_lines import shown


class UnknownLabels(object):
  """Labels of a part that are not in the list, with their counts."""

  MOST = 10

  def __init__(self, part, label_list, data_dir=None):
    """Begins.

    Args:
      part: str, what the part is called, such as `dev`.
      label_list: list of str, all the labels there are.
      data_dir: str, the folder whose labels.txt may name more, or None.
    """
    self._part = part
    self._label_list = label_list
    self._data_dir = data_dir
    self._counts = {}
    self._first = None  # (the first example, its unknown label)

  def add(self, example, labels):
    """Notes labels (iterable of str) that are not in the list."""
    for label in labels:
      self._counts[label] = self._counts.get(label, 0) + 1
      self._first = self._first or (example, label)

  def check(self):
    """Raises ValueError if there were any: what they are, and what to do."""
    if not self._first:
      return
    example, label = self._first
    names = sorted(self._counts, key=lambda name: -self._counts[name])
    more = "" if len(names) <= self.MOST else ", ... (%d in all)" % len(names)
    raise ValueError(
        "%s: label %s is not one of the %d labels (%s)%s; labels of %s that "
        "are not: %s%s; to have them learnt, list all labels, one per line, in "
        "%s." % (
            base.describe(example), shown(label), len(self._label_list),
            list_names(sorted(self._label_list)),
            label_names.unknown_hint(label, self._label_list), self._part,
            ", ".join("%s (%d text%s)" % (
                shown(name), self._counts[name],
                "" if self._counts[name] == 1 else "s")
                      for name in names[:self.MOST]), more,
            os.path.join(self._data_dir or "data_dir", base.LABELS_FILE)))


# The placeholder label of processors for google-research/bert in a test set.
PLACEHOLDER = "0"


def is_placeholder(labels, label_set):
  """Whether a test example's labels (tuple) only fill the place of labels."""
  return labels == (PLACEHOLDER,) and PLACEHOLDER not in label_set


def without_labels(examples, label_set=None):
  """Yields examples without labels.

  Args:
    examples: iterable of examples of any style.
    label_set: set of str; then only those with a placeholder for a label lose
      it. None: all do.

  Yields:
    `InputExample`s, or the examples as they are.
  """
  for example in examples:
    if label_set is None or is_placeholder(
        base.example_labels(example), label_set):
      yield base.InputExample(example.guid, example.text_a,
                              getattr(example, "text_b", None), None,
                              getattr(example, "source", ""))
    else:
      yield example
