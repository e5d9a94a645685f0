# SPDX-License-Identifier: Apache-2.0
"""What a cell of a label column means.

A cell holds names with a separator between them (`sports, politics`), a list
as Python, numpy or JSON write it (`['sports', 'politics']`), a list of
numbers (`[0, 1, 0]`) that only the names of all labels give a meaning, or a 0
or 1 that says whether the column's own label holds. One column has one form:
a mixture is an error. Every `ValueError` of this module is a sentence without
its place and full stop, for the caller to complete.
"""

import ast
import re
import unicodedata
import warnings

from absl import logging

from processors import strict_json
from processors.text_lines import list_names
from processors.text_lines import shown


# Words that pandas reads as a missing value, and NaT, which it writes as one.
NULL_WORDS = frozenset((
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan",
    "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None",
    "n/a", "nan", "null"))

# What people put between labels when the flag says something else. Those of
# the first group are hardly ever part of a name.
SEPARATORS = ("|", ";", u"，", u"、", u"；", "\t")
SEPARATORS_IN_NAMES = ("#", "/", "&", ",")

# Label values of a 0/1 cell; None: nobody looked at the row.
_FLAG = re.compile(r"(?:(?P<on>1(?:\.0*)?|true)|(?P<off>0(?:\.0*)?|false)|"
                   r"-1(?:\.0*)?)\Z", re.IGNORECASE)
_YES_OR_NO = frozenset(("yes", "no", "y", "n", "t", "f"))

_PAIRS = {"[": "]", "(": ")", "{": "}"}
_WRAPPED = re.compile(r"(?:set|frozenset|array|tensor|tuple|list)\((.*?)"
                      r"(?:,\s*dtype=[^,()\[\]{}]+)?\)\Z", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<comma>,)"""
    r"""|(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"""
    r"""|(?P<dots>\.\.\.)|(?P<word>[A-Za-z_<>]+)""", re.DOTALL)
_QUOTED_START = re.compile(r"""\s*[bBrRuU]?['"]""")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)\Z")
_WORDS = {"True": True, "False": False, "true": True, "false": False,
          "None": None, "null": None, "nan": None, "NaN": None, "<NA>": None}
_SURROGATE = re.compile(u"[\ud800-\udfff]")
_MAX_DIGITS = 18
_JSON = strict_json.Decoder(_MAX_DIGITS)
# Zero-width characters, which nobody sees in a label.
_INVISIBLE = re.compile(u"[\u200b-\u200f\u2060\ufeff\u00ad]")


def unescape(separator):
  r"""Returns a flag's value with `\t`, `\n` and `\r` as what they stand for."""
  for written, meant in (("\\t", "\t"), ("\\n", "\n"), ("\\r", "\r")):
    separator = separator.replace(written, meant)
  return "\t" if separator == "tab" else separator


def escaped(separator):
  """Returns a separator as `--label_separator` takes it, quoted for a shell."""
  return "'%s'" % separator.replace("\t", "\\t").replace("\n", "\\n")


# --- 0 and 1 -----------------------------------------------------------------


def is_flag(cell):
  """Whether a cell (str) is a 0, a 1, or a -1 for "not annotated"."""
  return _FLAG.match(cell.strip()) is not None


def is_answer(cell):
  """Whether a cell (str) is a yes or a no in letters."""
  return cell.strip().lower() in _YES_OR_NO


def parse_flag(cell):
  """Returns True for 1, `1.0` and `true`; False for 0; None for -1.

  Raises:
    ValueError: the cell (str) is none of them.
  """
  match = _FLAG.match(cell.strip())
  if match is None:
    raise ValueError(cell)
  if match.group("on"):
    return True
  return False if match.group("off") else None


def explain_flag(cell, column):
  """What is wrong with a cell of a 0/1 column: str, part of a sentence."""
  column = shown(column)
  cell = cell.strip()
  if not cell:
    return ("column %s is empty here: write 0 where the label does not hold" %
            column)
  if is_answer(cell):
    return "column %s holds %s, not 0 or 1: write 1 for yes and 0 for no" % (
        column, shown(cell))
  return ("column %s holds %s, not 0 or 1; if it is no label, name the label "
          "columns with --label_column=A,B or leave it out with "
          "--ignore_columns=%s" % (column, shown(cell), column))


# --- Lists -------------------------------------------------------------------


def looks_like_list(cell):
  """Whether a cell is written as a list, or as the beginning of one.

  `[deleted]` and `(none)` are names; `[a, b]` is a list without quotation
  marks, which `parse_list` refuses.
  """
  cell = cell.strip()
  if not cell:
    return False
  if cell[0] in _PAIRS:
    if _QUOTED_START.match(cell, 1):
      return True
    if cell[-1] != _PAIRS[cell[0]]:
      return False
    inside = cell[1:-1].strip()
    return not inside or inside[0] in "[({" or "," in inside or all(
        part in _WORDS or _NUMBER.match(part) for part in inside.split())
  wrapped = _WRAPPED.match(cell)
  return wrapped is not None and (
      wrapped.group(1).strip()[:1] in ("", "[", "(", "{"))


def parse_list(cell):
  """Reads a list as Python, numpy or JSON write it.

  Args:
    cell: str, for which `looks_like_list` holds.

  Returns:
    tuple of str, or tuple of int, float and bool.

  Raises:
    ValueError: it is no such list, or holds something else.
  """
  text = cell.strip()
  wrapped = _WRAPPED.match(text)
  if wrapped:
    text = wrapped.group(1).strip() or "[]"
  values = _parse_json(text)
  if values is None:
    values = _scan_list(text, cell)
  return check_values(values, "list %s" % shown(cell.strip()))


def _parse_json(text):
  """A JSON array's values, or None where the text is none."""
  try:
    return _JSON.decode(text) if text[0] == "[" else None
  except strict_json.JsonError:
    return None


def _scan_list(text, cell):
  """Values of a list that is no JSON: of Python (commas), numpy (spaces)."""
  broken = ValueError(
      "%s looks like a list, but is none that Python or JSON can read: put "
      "each name in quotation marks and a comma between two, or write the "
      "names without brackets" % shown(cell.strip()))
  if text[0] not in _PAIRS or text[-1] != _PAIRS[text[0]] or len(text) < 2:
    raise broken
  values, between, styles, position = [], "start", set(), 1
  while position < len(text) - 1:
    match = _TOKEN.match(text, position, len(text) - 1)
    if match is None:
      if text[position] in "[({":
        raise ValueError("list %s holds a list within a list" % shown(
            cell.strip()))
      raise broken
    position = match.end()
    kind = match.lastgroup
    if kind == "space":
      between = between or "space"
    elif kind == "comma":
      if between in ("start", "comma"):
        raise broken
      between = "comma"
    elif kind == "dots":
      raise ValueError("list %s was cut short where it was written (...): "
                       "write the whole list" % shown(cell.strip()))
    else:
      if not between:
        raise broken
      styles.add(between)
      values.append(_read_token(match, broken))
      between = ""
  styles.discard("start")
  # Python would make one name of 'a' 'b' where commas stand between others.
  if len(styles) > 1 or ("space" in styles and (
      text[0] != "[" or text[:-1].rstrip().endswith(","))):
    raise broken
  return values


def _read_token(match, broken):
  """The value of a token that is no separator."""
  token = match.group()
  kind = match.lastgroup
  if kind == "text":
    if "\\" not in token:
      return token[1:-1]
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.literal_eval(token)
    except (ValueError, SyntaxError):
      raise broken
  if kind == "number":
    if len(token) > _MAX_DIGITS:
      raise broken
    return float(token) if re.search("[.eE]", token) else int(token)
  if token in _WORDS:
    return _WORDS[token]
  raise broken


def check_values(values, place):
  """Returns a list's values as a tuple of str, or of numbers.

  Args:
    values: list.
    place: str, what begins the sentence, such as `"labels"`.

  Raises:
    ValueError: there is something else in it, or strings beside numbers.
  """
  texts = [value for value in values if isinstance(value, str)]
  if len(texts) == len(values):
    return tuple(_SURROGATE.sub(u"\ufffd", text) for text in texts)
  for value in values:
    if value is None or value != value:
      raise ValueError("%s holds a missing value (%s): leave it out" % (
          place, "None" if value is None else "NaN"))
    if not isinstance(value, (str, bool, int, float)):
      raise ValueError("%s holds %s, not a string" % (
          place, {list: "a list within a list", dict: "an object"}.get(
              type(value), shown(value))))
  if texts:
    raise ValueError("%s holds strings beside numbers" % place)
  return tuple(values)


# --- Lists of numbers --------------------------------------------------------


class NumberLists(object):
  """Lists of numbers: a 0 or 1 for each label, or the numbers of the labels.

  All lists of a file are of one kind, which `add` finds out and `settle` says.
  """

  def __init__(self, label_list):
    """Begins with the names (list of str) in the order of the numbers."""
    self._labels = tuple(label_list)
    # Where the first list stands that is of neither kind, by kind.
    self._no_vector = None
    self._no_numbers = None
    self._example = None

  def add(self, line, values):
    """Takes a list (tuple of int, float and bool) of a line into account."""
    if self._no_vector is None and not self._is_vector(values):
      self._no_vector = (line, values)
    if self._no_numbers is None and not self._are_numbers(values):
      self._no_numbers = (line, values)

  def settle(self):
    """Decides; returns the function from a list to the names of its labels.

    Raises:
      ValueError: no reading fits all lists.
    """
    if self._no_vector is None:
      return self.from_vector
    if self._no_numbers is None:
      return self.from_numbers
    line, values = max(self._no_vector, self._no_numbers,
                       key=lambda place: place[0])
    raise ValueError(
        "line %d: the list %s is neither a 0 or 1 for each of the %d labels "
        "nor, with the lists before it, label numbers from 0 to %d" % (
            line, shown(list(values)), len(self._labels),
            len(self._labels) - 1))

  def from_vector(self, values):
    """Names of the labels whose number is 1."""
    if not self._is_vector(values):
      raise ValueError("the list %s is not a 0 or 1 for each of the %d labels" %
                       (shown(list(values)), len(self._labels)))
    return tuple(name for name, value in zip(self._labels, values) if value)

  def from_numbers(self, values):
    """Names of the labels with these numbers, from 0."""
    if not self._are_numbers(values):
      raise ValueError(
          "the list %s does not hold label numbers, each once, from 0 to %d" % (
              shown(list(values)), len(self._labels) - 1))
    return tuple(self._labels[value] for value in values)

  def _is_vector(self, values):
    return len(values) == len(self._labels) and all(
        value in (0, 1) for value in values)

  def _are_numbers(self, values):
    return (all(isinstance(value, int) and not isinstance(value, bool) and
                0 <= value < len(self._labels) for value in values) and
            len(set(values)) == len(values))


def explain_unknown_numbers(data_dir, more=""):
  """What to do about numbers where nobody knows the labels: str."""
  return ("the labels are numbers, which only their names give a meaning: "
          "write %s/labels.txt, one label a line in the order of the numbers"
          "%s" % (data_dir, more))


# --- Names -------------------------------------------------------------------


def split_cell(cell, separator):
  """Returns the names in a cell: tuple of str, stripped; () where it is empty.

  A separator of white space alone may stand there several times.
  """
  if not cell.strip():
    return ()
  names = [name.strip() for name in cell.split(separator)]
  if separator.isspace():
    names = [name for name in names if name]
  return tuple(names)


class LabelNames(object):
  """The labels of a file, and what about them makes one doubt.

  Attributes:
    lines: dict from label to the first line that has it.
  """

  def __init__(self, separator=None):
    """Begins; `separator` (str) is what cells are split at, None: they are not.
    """
    self.lines = {}
    self._separator = separator
    self._is_split = False
    self._null = None  # (line, label): a missing value that became a name

  def add(self, line, labels, cell=None):
    """Takes the labels of a row, and the cell they are from, into account."""
    for label in labels:
      if label not in self.lines:
        self.lines[label] = line
    if len(labels) == 1 and self._null is None and labels[0] in NULL_WORDS:
      self._null = (line, labels[0])
    if not self._is_split and cell is not None and self._separator in cell:
      self._is_split = True

  def check(self, path, are_lists=False):
    """Raises ValueError, a whole sentence, if the labels are hardly meant.

    Args:
      path: str, the file, for messages.
      are_lists: bool, whether the labels are from lists after all, in which
        no separator stands.
    """
    if are_lists:
      self._separator = None
    if self._null:
      raise ValueError(
          "%s:%d: the only label is %s, which stands for a missing value: "
          "leave the cell empty, or list %s in labels.txt if it is a label." % (
              (path,) + self._null[:1] + (shown(self._null[1]),
                                          self._null[1])))
    for label, line in self.lines.items():
      reason = self._explain(label)
      if reason:
        raise ValueError("%s:%d: %s." % (path, line, reason))
    joined = [label for label in self.lines if self._separator and
              len(label.split()) > 1 and
              all(part in self.lines for part in label.split())]
    if joined:
      logging.warning(
          "%s: labels that are other labels with a space between: %s (if that "
          "is what separates labels, give --label_separator=' ')", path,
          list_names(joined, 10))

  def _explain(self, label):
    """Why a label is none, or None."""
    if is_quoted(label):
      return ("label %s stands in quotation marks: take them off, or list it "
              "in labels.txt if they belong to it" % shown(label))
    if looks_like_list(label) and "," in label:
      return ("label %s looks like a list: write each of its names as a label, "
              "or list it in labels.txt if it is one" % shown(label))
    separator = find_separator(label, self.lines)
    if separator is None and self._separator:
      bare = self._separator.strip()
      if bare and bare != self._separator and bare in label:
        return ("label %s has %s in it, without the white space of "
                "--label_separator: give --label_separator=%s, or list all "
                "labels in labels.txt if it is one" % (
                    shown(label), shown(bare), escaped(bare)))
    if separator is None and self._separator and not self._is_split:
      separator = self._guess_separator(label)
      if separator is not None:
        return ("no label has %s in it, but %s has %s: give "
                "--label_separator=%s, or list the labels in labels.txt" % (
                    shown(self._separator), shown(label), shown(separator),
                    escaped(separator)))
    if separator is None:
      return None
    if self._separator is None:
      return ("label %s is made of other labels with %s between them: write "
              "each as a label of its own, or list it in labels.txt if it is "
              "one" % (shown(label), shown(separator)))
    return ("label %s is made of other labels: give --label_separator=%s, or "
            "list all labels in labels.txt if it is one" % (
                shown(label), escaped(separator)))

  def _guess_separator(self, label):
    """What seems to separate labels where the separator is in no cell."""
    for separator in SEPARATORS:
      if separator in label and separator != self._separator:
        return separator
    if self._separator == "," or "," not in label:
      return None
    # A comma may be part of a name; not if its parts are in other names, too.
    parts = set(part.strip() for part in label.split(","))
    return "," if parts & self._repeated_parts() else None

  def _repeated_parts(self):
    """Parts between commas that several labels have."""
    if not hasattr(self, "_repeated"):
      seen, self._repeated = set(), set()
      for label in self.lines:
        parts = set(part.strip() for part in label.split(","))
        self._repeated |= seen & parts
        seen |= parts
    return self._repeated


def is_quoted(label):
  """Whether quotation marks stand around a label."""
  return len(label) > 1 and label[0] == label[-1] and label[0] in "'\"`"


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
  return None


def unknown_hint(label, labels):
  """What a label that is not in the list may be: str in brackets, or empty."""
  separator = find_separator(label, frozenset(labels))
  if separator is not None:
    return " (it is made of them: --label_separator=%s?)" % escaped(separator)
  if label.isdigit() and not any(name.isdigit() for name in labels):
    return " (label numbers, counted from 0, are written as lists, [%s])" % (
        label if len(label) < 9 else "2")
  if looks_like_list(label):
    return " (it looks like a list)"
  for name in labels:
    if len(similar_labels((label, name))) == 1:
      return " (is it %s?)" % shown(name)
  return ""


def similar_labels(labels):
  """Finds labels that differ in nothing that one sees at once.

  Args:
    labels: iterable of str.

  Returns:
    list of lists of str, in the order of `labels`: those that differ only in
    case, in Unicode form (full width, composed or not), in white space or in
    characters without width.
  """
  groups = {}
  for label in labels:
    key = unicodedata.normalize("NFKC", _INVISIBLE.sub("", label)).casefold()
    groups.setdefault(" ".join(key.split()), []).append(label)
  return [group for group in groups.values() if len(group) > 1]


def describe_similar(labels, most=10):
  """A sentence about labels that look alike, or None."""
  groups = similar_labels(labels)
  if not groups:
    return None
  return ("labels that differ only in case, white space or Unicode form, and "
          "are separate labels: %s%s" % (
              "; ".join(list_names(group) for group in groups[:most]),
              "; ... (%d in all)" % len(groups) if len(groups) > most else ""))
