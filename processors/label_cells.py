# SPDX-License-Identifier: Apache-2.0
"""What a cell of a label column means.

A cell holds names with a separator between them (`sports, politics`), a list as
Python, numpy or JSON write it (`['sports', 'politics']`), a list of numbers
(`[0, 1, 0]`) which only the list of all labels gives a meaning, or a 0 or 1
that says whether the column's own label holds. One column has one form: a
mixture is an error. Every `ValueError` of this module is a sentence without its
place and full stop, for the caller to complete.
"""

import ast
import re
import warnings

from processors import strict_json
from processors.text_lines import shown

# Label values of a 0/1 cell; None: not annotated.
_FLAG = re.compile(r"(?:(?P<on>1(?:\.0*)?|true)|(?P<off>0(?:\.0*)?|false)|"
                   r"-1(?:\.0*)?)\Z", re.IGNORECASE)
_FLAGS = re.compile(r"[01](?:[\s,;|/]+[01])+\Z|[01]{3,}\Z")
# Common ways to write 1 and 0.
_ANSWERS = tuple(frozenset(words.split()) for words in (
    "yes no", "y n", "t f", "on off", "ja nein", "oui non", u"si sí no",
    u"是 否", u"да нет"))
_MARKS_FOR_ONE = frozenset(("x", u"×", u"✓", u"✔", u"√", "*"))

_PAIRS = {"[": "]", "(": ")", "{": "}"}
_WRAPPED = re.compile(r"(?:set|frozenset|array|tensor|tuple|list)\((.*?)"
                      r"(?:,\s*dtype=[^,()\[\]{}]+)?\)\Z", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<comma>,)"""
    r"""|(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"""
    r"""|(?P<dots>\.\.\.)|(?P<word>[A-Za-z_<>]+)""", re.DOTALL)
QUOTED_START = re.compile(r"""\s*[bBrRuU]?['"]""")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)\Z")
_WORDS = {"True": True, "False": False, "true": True, "false": False,
          "None": None, "null": None, "nan": None, "NaN": None, "<NA>": None}
_SURROGATE = re.compile(u"[\ud800-\udfff]")
_MAX_DIGITS = 18
_JSON = strict_json.Decoder(_MAX_DIGITS)


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


def are_answers(words):
  """Whether words (set of str, in lower case) are yes and no, of one language.
  """
  return any(words <= pair for pair in _ANSWERS)


def are_marks(words):
  """Whether words (set of str) are marks for "yes", such as x."""
  return words <= _MARKS_FOR_ONE


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


def count_flags(cell):
  """How many zeros and ones a cell (str) is made of, as 0,1,0 or 010; or 0."""
  if not _FLAGS.match(cell.strip()):
    return 0
  return sum(char in "01" for char in cell)


def explain_flag(cell, column):
  """What is wrong with a cell of a 0/1 column: str, part of a sentence."""
  column = shown(column)
  cell = cell.strip()
  if not cell:
    return ("column %s is empty here: write 0 where the label does not hold" %
            column)
  if are_answers({cell.lower()}) or are_marks({cell.lower()}):
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
    if QUOTED_START.match(cell, 1):
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
    ValueError: it is not such an list, or holds something else.
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
  """Values of a list that is not JSON: of Python (commas), numpy (spaces)."""
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
  """The value of a token that is not a separator."""
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

  All lists of a file are of one kind, which `add` detects and `settle` returns.
  """

  def __init__(self, label_list):
    """Takes the names (list of str) in the order of the numbers."""
    self._labels = tuple(label_list)
    # Place of the first list that does not fit, by kind.
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
  """What to do about label numbers if the labels are not known: str."""
  return ("the labels are numbers, which only their names give a meaning: "
          "write %s/labels.txt, one label a line in the order of the numbers"
          "%s" % (data_dir, more))


# --- Names -------------------------------------------------------------------


def split_cell(cell, separator):
  """Returns the names in a cell: tuple of str, stripped; () where it is empty.

  A separator of white space alone may be there several times.
  """
  if not cell.strip():
    return ()
  names = [name.strip() for name in cell.split(separator)]
  if separator.isspace():
    names = [name for name in names if name]
  return tuple(names)
