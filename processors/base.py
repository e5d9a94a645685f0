# SPDX-License-Identifier: Apache-2.0
"""Shared by the data processors: examples, labels, one file per part.

A processor turns the files of a folder into `InputExample`s. Processors whose
data are one file per part (`train`, `dev`, `test`) derive from `FileProcessor`
and only say how one file is read. Every error in the user's data is a
`ValueError` of one sentence that starts with `path:LINE` if a line is at fault.
Examples are produced one by one, so a file of any size is read in constant
memory; the first one is produced immediately, so a missing file or a bad header
is an error before any work.
"""

import csv
import hashlib
import itertools
import os

from absl import logging

from processors import label_names
from processors import text_lines
from processors.text_lines import is_utf8
from processors.text_lines import list_names
from processors.text_lines import numbered_lines
from processors.text_lines import shown


# Option -> value when it is missing or None; the flags have the same names.
OPTION_DEFAULTS = {
    "text_column": None,
    "text_pair_column": None,
    "label_column": None,
    "ignore_columns": None,
    "id_column": None,
    "label_separator": ",",
    "delimiter": None,
    "quoting": "auto",
    "encoding": None,
    "dev_fraction": None,
}

LABELS_FILE = "labels.txt"


class MissingFileError(ValueError):
  """The folder has no file of a part, so it cannot tell the labels either."""


class InputExample(object):
  """One text, or pair of texts, with its labels."""

  def __init__(self, guid, text_a, text_b=None, labels=(), source="",
               label=None):
    """Makes an example.

    Args:
      guid: str, a name for the example in messages and predictions. It need
        not be unique.
      text_a: str, the text; it may be empty.
      text_b: str, the second text of a pair, or None.
      labels: sequence of str, the names of its labels, or None if the example
        is not labelled (a test file). A single str is one label, as the fourth
        argument is in google-research/bert.
      source: str, where it comes from, such as `train.csv:12`, for messages.
      label: str, the one label, as in google-research/bert, or several of
        them; instead of `labels`.

    Raises:
      ValueError: `label` is given beside `labels`, or is not a str.
    """
    if isinstance(labels, str):
      labels = (labels,)
    if label is not None:
      if labels:
        raise ValueError("Example %s: give label= or labels=, not both." %
                         shown(guid))
      labels = (label,) if isinstance(label, str) else _as_tuple(guid, label)
    self.guid = guid
    self.text_a = text_a
    self.text_b = text_b
    self.labels = None if labels is None else tuple(labels)
    self.source = source

  @property
  def label(self):
    """The label if there is one, as in google-research/bert, otherwise a tuple.
    """
    if self.labels is not None and len(self.labels) == 1:
      return self.labels[0]
    return self.labels

  @label.setter
  def label(self, value):
    self.labels = (None if value is None else
                   (value,) if isinstance(value, str) else tuple(value))


def _as_tuple(guid, label):
  """`label` as a tuple; a number is not a name of a label."""
  if isinstance(label, (tuple, list, set, frozenset)):
    return tuple(label)
  raise ValueError("Example %s: label must be a str, or a list of str, not %s."
                   % (shown(guid), shown(label)))


class DataProcessor(object):
  """The interface of all processors; a user's own may derive from it."""

  # The options that this class supports; any other is rejected.
  options_used = tuple(OPTION_DEFAULTS)

  def __init__(self, options=None):
    """Keeps the options.

    Args:
      options: dict from names in `OPTION_DEFAULTS` to values, or None. A
        missing name, and None, mean the default.

    Raises:
      ValueError: an option does not exist or has no meaning for this class.
    """
    self.options = dict(OPTION_DEFAULTS)
    for name, value in (options or {}).items():
      if name not in OPTION_DEFAULTS:
        raise ValueError("There is no processor option %s; there are: %s." % (
            shown(name), ", ".join(sorted(OPTION_DEFAULTS))))
      if value is None or value == "" and name != "label_separator":
        continue
      if (name not in self.options_used and
          value != OPTION_DEFAULTS[name]):
        raise ValueError("--%s=%s means nothing to %s: leave it out." % (
            name, value, type(self).__name__))
      self.options[name] = value

  def get_train_examples(self, data_dir):
    """Returns an iterable of the `InputExample`s to train on."""
    raise self._undefined("get_train_examples")

  def get_dev_examples(self, data_dir):
    """Returns an iterable of the `InputExample`s to evaluate on."""
    raise self._undefined("get_dev_examples")

  def get_test_examples(self, data_dir):
    """Returns an iterable of the `InputExample`s to predict."""
    raise self._undefined("get_test_examples")

  def get_labels(self, data_dir=None):
    """Returns the list of label names, in the order of the outputs."""
    raise self._undefined("get_labels")

  def columns_taken(self, data_dir):
    """Returns what was read as what, for the log: list of str, may be empty."""
    del data_dir
    return []

  @classmethod
  def _read_tsv(cls, input_file, quotechar=None):
    """Reads a file of tab-separated fields, as google-research/bert does.

    Args:
      input_file: str, a UTF-8 file.
      quotechar: str, one character that quotes a field; None: no character
        does.

    Returns:
      list of lists of str, one per line; an empty line is an empty list.

    Raises:
      ValueError: the file cannot be read, or a quoted field is broken.
    """
    lines = text_lines.read_lines(input_file)
    if quotechar is None:
      lines = (line.rstrip("\r\n") for line in lines)
      return [line.split("\t") if line else [] for line in lines]
    rows = []
    try:
      for row in csv.reader(lines, delimiter="\t", quotechar=quotechar):
        rows.append(row)
    except csv.Error as error:
      raise ValueError("%s: row %d is broken (%s)." % (
          input_file, len(rows) + 1, text_lines.one_line(error)))
    return rows

  def _undefined(self, method):
    # A ValueError, since the method is missing in the user's class.
    return ValueError("%s defines no %s." % (type(self).__name__, method))


class FileProcessor(DataProcessor):
  """Examples from one file per part: `train`, `dev` and `test` in a folder."""

  # Labels of a trained model, which name the label numbers in data to evaluate
  # if labels.txt does not; list of str, or None.
  trained_labels = None
  extensions = ()  # such as (".csv", ".tsv"); each may have .gz behind it
  packed_extensions = ()  # those of them that have their own packing

  def __init__(self, options=None):
    super(FileProcessor, self).__init__(options)
    self._told = set()  # what the log has been told of files

  def log_once(self, message, *arguments):
    """Says what is odd about a file once, however often it is read."""
    if (message, arguments) not in self._told:
      self._told.add((message, arguments))
      logging.info(message, *arguments)

  def read_rows(self, path, part, data_dir):
    """Yields the rows of one file; subclasses say how.

    Args:
      path: str, the file.
      part: str, "train", "dev" or "test"; only "test" may lack labels.
      data_dir: str, the folder, whose other files may give more information.

    Yields:
      (line, identifier, text_a, text_b, labels): int, the 1-based line where
      the row starts; str, empty when the row has none; str; str or None;
      tuple of distinct str, or None when the row is not labelled.

    Raises:
      ValueError: the file is broken.
    """
    raise NotImplementedError()

  def known_labels(self, data_dir):
    """Returns the labels that do not come from the rows, or None.

    Args:
      data_dir: str, the folder, or None.

    Returns:
      list of str, those of `labels.txt`, or None if there is no such file.
    """
    path = os.path.join(data_dir or "", LABELS_FILE)
    if data_dir is None or not os.path.lexists(path):
      return None
    return read_labels_file(path, self.options["encoding"])

  def find_file(self, data_dir, part):
    """Finds the file of one part.

    Args:
      data_dir: str, an existing folder.
      part: str, "train", "dev" or "test".

    Returns:
      str, its path, or None when there is none.

    Raises:
      ValueError: the folder is missing, there are several candidates, or the
        candidate is not a file.
    """
    check_folder(data_dir)
    found = [name for name in self._file_names(part)
             if os.path.lexists(os.path.join(data_dir, name))]
    if len(found) > 1:
      raise ValueError("%s holds both %s: keep one of them." % (
          data_dir, " and ".join(found)))
    if not found:
      return None
    path = os.path.join(data_dir, found[0])
    if not os.path.isfile(path):
      raise ValueError("%s is not a file%s." % (
          path, " but a folder" if os.path.isdir(path) else ""))
    return path

  def get_train_examples(self, data_dir):
    """See `DataProcessor`; without the part split off by `dev_fraction`."""
    path = self._require_file(data_dir, "train")
    fraction = self._check_dev_fraction(data_dir)
    keep = (lambda key: not in_split(key, fraction)) if fraction else None
    return self._examples(path, "train", data_dir, keep)

  def get_dev_examples(self, data_dir):
    """See `DataProcessor`; from the dev file or split off train."""
    fraction = self._check_dev_fraction(data_dir)
    if fraction:
      path = self._require_file(data_dir, "train")
      return self._examples(path, "train", data_dir,
                            lambda key: in_split(key, fraction))
    path = self.find_file(data_dir, "dev")
    if path is None:
      raise ValueError(
          "%s has no dev set: add %s, or split one off train with "
          "--dev_fraction=0.1 (files there: %s)." % (
              data_dir, self._file_names("dev")[0], _list_folder(data_dir)))
    return self._examples(path, "dev", data_dir)

  def get_test_examples(self, data_dir):
    """See `DataProcessor`; `labels` is None for unlabelled examples."""
    path = self._require_file(data_dir, "test")
    return self._examples(path, "test", data_dir)

  def get_labels(self, data_dir=None):
    """Reads `labels.txt` of the folder, otherwise uses `default_labels`."""
    known = self.known_labels(data_dir)
    return self.default_labels(data_dir) if known is None else known

  def default_labels(self, data_dir):
    """Returns the sorted labels of the train file, before any split.

    Args:
      data_dir: str, the folder.

    Returns:
      list of str.

    Raises:
      ValueError: the file is broken, empty or has no labels, or they look like
        mistakes; see `label_names.LabelNames`.
    """
    path = self._require_file(data_dir, "train")
    names = label_names.LabelNames()
    rows = 0
    for row in self.read_rows(path, "train", data_dir):
      names.add(row[0], row[4])
      rows += 1
    if not rows:
      raise ValueError("%s holds no examples." % path)
    if not names.lines:
      raise ValueError("%s: none of its %d rows has a label." % (path, rows))
    names.check(path)
    return sorted(names.lines)

  def _file_names(self, part):
    return [part + extension + packed
            for packed in ("", ".gz") for extension in self.extensions
            if not (packed and extension in self.packed_extensions)]

  def _require_file(self, data_dir, part):
    path = self.find_file(data_dir, part)
    if path is None:
      raise MissingFileError("%s has none of %s (files there: %s)." % (
          data_dir, ", ".join(self._file_names(part)), _list_folder(data_dir)))
    return path

  def _check_dev_fraction(self, data_dir):
    """Returns the fraction of train to split off, or None."""
    given = self.options["dev_fraction"]
    if given is None or given == 0:
      return None
    try:
      fraction = float(given)
    except (TypeError, ValueError):
      fraction = -1.
    if not 0 < fraction < 1:
      raise ValueError(
          "--dev_fraction=%s must lie between 0 and 1, such as 0.1." % given)
    path = self.find_file(data_dir, "dev")
    if path is not None:
      raise ValueError(
          "--dev_fraction=%s splits a dev set off train, but %s is one: remove "
          "the flag or the file." % (given, path))
    return fraction

  def _examples(self, path, part, data_dir, keep=None):
    """Returns an iterator over the examples of a file, the first one ready."""
    examples = self._generate(path, part, data_dir, keep)
    for first in examples:
      return itertools.chain((first,), examples)
    raise ValueError("%s holds no examples%s." % (
        path, " for one side of --dev_fraction=%s" %
        self.options["dev_fraction"] if keep else ""))

  def _generate(self, path, part, data_dir, keep):
    rows = enumerate(self.read_rows(path, part, data_dir), 1)
    for number, (line, identifier, text_a, text_b, labels) in rows:
      if keep is None or keep(identifier or text_a):
        yield InputExample(identifier or "%s-%d" % (part, number),
                           text_a, text_b, labels, "%s:%d" % (path, line))


def in_split(key, fraction):
  """Whether a row belongs to the part split off, on any machine.

  Args:
    key: str, the row's id, or its text if it has no id.
    fraction: float between 0 and 1, the fraction to split off.

  Returns:
    bool.
  """
  digest = hashlib.sha256(key.encode("utf-8")).digest()
  return int.from_bytes(digest[:8], "big") < fraction * 2**64


def example_labels(example):
  """Returns the labels of an example of any style.

  Args:
    example: object with `labels` (sequence of str, or None) or, as in
      google-research/bert, with `label` (one str, or None).

  Returns:
    tuple of str, or None when the example is not labelled.

  Raises:
    ValueError: it has neither, or they are not names.
  """
  if hasattr(example, "labels"):
    labels = example.labels
  elif hasattr(example, "label"):
    labels = example.label
    labels = (labels,) if isinstance(labels, str) else labels
  else:
    raise ValueError("%s has no labels." % describe(example))
  if labels is None:
    return None
  if (not isinstance(labels, (tuple, list, set, frozenset)) or
      not all(isinstance(label, str) for label in labels)):
    raise ValueError("%s: labels must be a tuple of str, not %s." % (
        describe(example), shown(labels)))
  return tuple(labels)


def check_labels(example, label_set, require_labels=True):
  """Checks that an example has only known labels.

  Args:
    example: `InputExample` or one of the user's own class.
    label_set: set or frozenset of str, all the labels there are.
    require_labels: bool, whether an example without labels is an error
      (train and dev).

  Returns:
    tuple of str, the example's labels, or None when it is not labelled.

  Raises:
    ValueError: a label is unknown, or labels are required and missing.
  """
  labels = example_labels(example)
  if labels is None:
    if require_labels:
      raise ValueError(
          "%s is not labelled: only a test set may lack labels." %
          describe(example))
    return None
  if not label_set.issuperset(labels):
    unknown = [label for label in labels if label not in label_set]
    raise ValueError("%s: label %s is not one of the %d labels (%s)." % (
        describe(example), shown(unknown[0]), len(label_set),
        list_names(sorted(label_set))))
  return labels


def check_example(example, label_set, require_labels=True):
  """`check_labels`, and that the texts are str; same arguments and result."""
  check_texts(example)
  return check_labels(example, label_set, require_labels)


def check_texts(example):
  """Raises ValueError unless the texts of an example are str."""
  for name in ("text_a", "text_b"):
    text = getattr(example, name, None)
    if not isinstance(text, str) and not (name == "text_b" and text is None):
      raise ValueError("%s: %s must be a str, not %s." % (
          describe(example), name, shown(text)))


def describe(example):
  """Describes the origin and name of an example: str."""
  source = getattr(example, "source", "")
  return "%sexample %s" % (
      source + ": " if source else "", shown(getattr(example, "guid", None)))


def clean_labels(labels):
  """Strips labels and drops repetitions.

  Args:
    labels: sequence of str.

  Returns:
    tuple of distinct str, in the order of their first appearance.

  Raises:
    ValueError: a label cannot be in `labels.txt`; the caller completes the
      message, a sentence without its place.
  """
  stripped = tuple(label.strip() for label in labels)
  for label in stripped:
    if not label:
      raise ValueError("there is an empty label: nothing stands on one side of "
                       "a separator")
    if "\n" in label or "\r" in label or "\0" in label:
      raise ValueError(
          "label %s holds a line break or a NUL character, but labels.txt "
          "holds one label per line" % shown(label))
    if label[0] == "\ufeff":
      raise ValueError("label %s begins with a byte order mark" % shown(label))
  return tuple(dict.fromkeys(stripped))


def read_labels_file(path, encoding=None):
  """Reads a list of labels, one per line.

  Args:
    path: str, the file; white space around a label is dropped.
    encoding: str, the encoding of a file that is not UTF-8.

  Returns:
    list of str.

  Raises:
    ValueError: the file is empty or has a blank line or a duplicate.
  """
  if os.path.lexists(path) and not os.path.isfile(path):
    raise ValueError("%s is not a file%s." % (
        path, " but a folder" if os.path.isdir(path) else ""))
  labels = []
  lines = {}
  for number, line in numbered_lines(path, encoding and (
      None if is_utf8(path) else encoding)):
    try:
      label = clean_labels((line,))[0]
    except ValueError as error:
      raise ValueError("%s:%d: %s." % (path, number, error))
    if label in lines:
      raise ValueError("%s:%d: label %s is already on line %d." % (
          path, number, shown(label), lines[label]))
    lines[label] = number
    labels.append(label)
  if not labels:
    raise ValueError("%s is empty: write one label per line." % path)
  return labels


def check_folder(data_dir):
  """Raises ValueError unless `data_dir` is a folder that exists."""
  if not data_dir:
    raise ValueError("--data_dir must name the folder that holds the data.")
  if not os.path.isdir(data_dir):
    raise ValueError("--data_dir=%s is not %s." % (
        data_dir,
        "a folder" if os.path.lexists(data_dir) else "there"))


def _list_folder(data_dir):
  return list_names(sorted(os.listdir(data_dir)))
