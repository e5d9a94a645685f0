# SPDX-License-Identifier: Apache-2.0
"""Label names that look like mistakes, and their likely causes.

A separator other than the flag's, lists that were split, missing values that
became words. `labels.txt` overrides all of it.
"""

import re
import unicodedata

from absl import logging

from processors import label_cells
from processors.text_lines import list_names
from processors.text_lines import shown

# Words that pandas reads as a missing value, and NaT, which it writes as one.
NULL_WORDS = frozenset((
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan",
    "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None",
    "n/a", "nan", "null"))

# Common separators of labels other than the flag's. Those of the first group
# are rarely part of a name.
SEPARATORS = ("|", ";", u"，", u"、", u"；", "\t", u"｜", u"،", u"؛")
SEPARATORS_IN_NAMES = ("#", "/", "&", ",", "+", "~", "\\", u"／", u"＆", u"＃",
                       u"・", u"·")

_ANY_SEPARATOR = re.compile("[%s]" % re.escape("".join(
    SEPARATORS + SEPARATORS_IN_NAMES)))
_BRACKETS = {"[": "]", "(": ")", "{": "}", u"［": u"］", u"（": u"）",
             u"｛": u"｝", u"【": u"】"}
_OPENING = {closing: opening for opening, closing in _BRACKETS.items()}
# #a #b, <a><b> of Stack Overflow, __label__a __label__b of fastText.
_TAGS = re.compile(r"#[^#\s]+(?:\s*#[^#\s]+)+\Z|<[^<>]+>(?:\s*<[^<>]+>)+\Z|"
                   r"__label__\S+(?:\s+__label__\S+)+\Z")
_SCORED = re.compile(r".*[:=\s]\d*\.\d+\Z", re.DOTALL)
# pandas writes a.1 for the second column that is called a.
_SECOND = re.compile(r"(.*[^\W\d_])\.\d+\Z", re.DOTALL)
_JOINTS = re.compile(r"\s+(?:and|or)\s+|(?:[^\w]|_)+")
# Zero-width characters, which are invisible in a label.
_INVISIBLE = re.compile(u"[\u200b-\u200f\u2060\ufeff\u00ad]")


class LabelNames(object):
  """The labels of a file, and what is suspicious about them.

  Attributes:
    lines: dict from label to the first line that has it.
  """

  def __init__(self, separator=None):
    """Begins; `separator` (str) is what cells are split at, None: they are not.
    """
    self.lines = {}
    self._separator = separator
    self._is_split = False
    self._most = 0  # labels of a row
    self._null = None  # (line, label): a missing value that became a name
    self._repeated = None  # parts between commas that several labels have

  def add(self, line, labels, cell=None):
    """Takes the labels of a row, and the cell they are from, into account."""
    for label in labels:
      if label not in self.lines:
        self.lines[label] = line
    self._most = max(self._most, len(labels))
    if self._null is None:
      null = NULL_WORDS.intersection(labels)
      self._null = (line, sorted(null)[0]) if null else None
    if not self._is_split and cell is not None and self._separator in cell:
      self._is_split = True

  def check(self, path, are_lists=False):
    """Raises ValueError, a complete sentence, if the labels look like mistakes.

    Args:
      path: str, the file, for messages.
      are_lists: bool, whether the labels are from lists after all, in which
        no separator stands.
    """
    if are_lists:
      self._separator = None
    if self._null:
      raise ValueError(
          "%s:%d: label %s stands for a missing value: leave it out, or list "
          "%s in labels.txt if it is a label." % (
              (path,) + self._null[:1] + (shown(self._null[1]),
                                          self._null[1])))
    for label, line in self.lines.items():
      reason = self._explain(label)
      if reason:
        raise ValueError("%s:%d: %s." % (path, line, reason))
    if len(self.lines) > 1 and all(
        label[0] == "[" and label[-1] == "]" for label in self.lines):
      raise ValueError(
          "%s: every label stands in brackets, such as %s: put the names in "
          "quotation marks if these are lists, or list the labels in "
          "labels.txt." % (path, shown(next(iter(self.lines)))))
    if self.lines and all(_SCORED.match(label) for label in self.lines):
      raise ValueError(
          "%s: a number stands behind every label, such as in %s: write the "
          "names alone, or list the labels in labels.txt." % (
              path, shown(next(iter(self.lines)))))
    odd = [label for label in self.lines if is_joined(label, self.lines) or
           any(separator in label for separator in SEPARATORS)]
    if odd:
      logging.warning(
          "%s: labels that look like several: %s (if what stands between "
          "separates labels, give it with --label_separator)", path,
          list_names(odd, 10))

  def _explain(self, label):
    """Why a label looks like a mistake, or None."""
    if is_quoted(label):
      return ("label %s stands in quotation marks: take them off, or list it "
              "in labels.txt if they belong to it" % shown(label))
    if label_cells.looks_like_list(label) and (
        "," in label or label_cells.QUOTED_START.match(label, 1)):
      return ("label %s looks like a list: write each of its names as a label, "
              "or list it in labels.txt if it is one" % shown(label))
    if is_half(label):
      return ("label %s has one of two brackets or marks: what separates "
              "labels may stand within a name; give another "
              "--label_separator, or list it in labels.txt if it is one" %
              shown(label))
    if _TAGS.match(label):
      return ("label %s is several tags: put between them what "
              "--label_separator says, or list it in labels.txt if it is one" %
              shown(label))
    separator = find_separator(label, self.lines)
    if separator is None and self._separator:
      bare = self._separator.strip()
      if bare and bare != self._separator and bare in label:
        return ("label %s has %s in it, without the white space of "
                "--label_separator: give --label_separator=%s, or list all "
                "labels in labels.txt if it is one" % (
                    shown(label), shown(bare), label_cells.escaped(bare)))
    if separator is None and self._separator and not self._is_split:
      separator = self._guess_separator(label)
      if separator is not None:
        return ("no label has %s in it, but %s has %s: give "
                "--label_separator=%s, or list the labels in labels.txt" % (
                    shown(self._separator), shown(label), shown(separator),
                    label_cells.escaped(separator)))
    if separator is None and self._separator is None and self._most == 1:
      separator = self._guess_separator(label)
    if separator is None:
      return None
    if self._separator is None:
      return ("label %s seems to be several with %s between them: write "
              "each as a label of its own, or list it in labels.txt if it is "
              "one" % (shown(label), shown(separator)))
    return ("label %s is made of other labels: give --label_separator=%s, or "
            "list all labels in labels.txt if it is one" % (
                shown(label), label_cells.escaped(separator)))

  def _guess_separator(self, label):
    """The likely separator, if no cell contains the given one."""
    for separator in SEPARATORS:
      if separator in label and separator != self._separator:
        return re.search(re.escape(separator) + "+", label).group()
    if self._separator == "," or "," not in label:
      return None
    # A comma may be part of a name; not if its parts are in other names, too.
    parts = set(part.strip() for part in label.split(","))
    return "," if parts & self._repeated_parts() else None

  def _repeated_parts(self):
    """Parts between commas that several labels have."""
    if self._repeated is None:
      seen, self._repeated = set(), set()
      for label in self.lines:
        parts = set(part.strip() for part in label.split(","))
        self._repeated |= seen & parts
        seen |= parts
    return self._repeated


def is_quoted(label):
  """Whether a label is in quotation marks, including b'bytes'."""
  bare = label[1:] if label[:2] in ("b'", 'b"') else label
  return len(bare) > 1 and bare[0] + bare[-1] in (
      "''", '""', "``", u"“”", u"‘’")


def is_half(label):
  """Whether the other one of a bracket at an end, or of a first ", is missing.
  """
  if not any(char.isalnum() for char in label):
    return False  # :)
  if label[0] == '"' and label.count('"') % 2:
    return True
  first, last = _BRACKETS.get(label[0]), _OPENING.get(label[-1])
  return (first is not None and first not in label or
          last is not None and last not in label)


def is_joined(label, labels):
  """Whether a label is others with spaces or other marks between them."""
  parts = _JOINTS.split(label)
  return len(parts) > 1 and all(part in labels for part in parts)


def find_separator(label, labels):
  """Finds what joins a label that is made of others.

  Args:
    label: str.
    labels: container of str.

  Returns:
    str, the separator, or None where the label is one.
  """
  for separator in SEPARATORS + SEPARATORS_IN_NAMES:
    if separator in label:
      parts = [part.strip() for part in label.split(separator)]
      if all(part in labels for part in parts):
        return separator
  parts = [part.strip() for part in _ANY_SEPARATOR.split(label)]
  if len(parts) > 1 and all(part in labels for part in parts):
    return _ANY_SEPARATOR.search(label).group()
  return None


def unknown_hint(label, labels):
  """A guess about a label that is not in the list: str in brackets, or
  empty."""
  separator = find_separator(label, frozenset(labels))
  if separator is not None:
    return " (it is made of them: --label_separator=%s?)" % (
        label_cells.escaped(separator))
  if label.isdigit() and not any(name.isdigit() for name in labels):
    return " (label numbers, counted from 0, are written as lists, [%s])" % (
        label if len(label) < 9 else "2")
  if label_cells.looks_like_list(label):
    return " (it looks like a list)"
  for name in labels:
    if len(similar_labels((label, name))) == 1:
      return " (is it %s?)" % shown(name)
  return ""


def similar_labels(labels):
  """Finds labels that look almost the same.

  Args:
    labels: iterable of str.

  Returns:
    list of lists of str, in the order of `labels`: those that differ only in
    case, in Unicode form (full width, composed or not), in white space, in
    characters without width or in the `.1` of a column that was there twice.
  """
  labels = list(labels)
  known, groups = frozenset(labels), {}
  for label in labels:
    key = label
    if _SECOND.match(label) and _SECOND.match(label).group(1) in known:
      key = _SECOND.match(label).group(1)
    key = unicodedata.normalize("NFKC", _INVISIBLE.sub("", key)).casefold()
    groups.setdefault(" ".join(key.split()), []).append(label)
  return [group for group in groups.values() if len(group) > 1]


def describe_similar(labels, most=10):
  """A sentence about labels that look alike, or None."""
  groups = similar_labels(labels)
  if not groups:
    return None
  return ("labels that differ only in case, white space, Unicode form or a .1, "
          "and are separate labels: %s%s" % (
              "; ".join(list_names(group) for group in groups[:most]),
              "; ... (%d in all)" % len(groups) if len(groups) > most else ""))
