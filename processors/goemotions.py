# SPDX-License-Identifier: Apache-2.0
"""GoEmotions in its published form (Demszky et al. 2020).

Lines are `text<TAB>label numbers separated by commas<TAB>id`, without header;
quotation marks are ordinary characters. A number counts the lines of
`emotions.txt` from 0.
"""

import functools
import os

from processors import base
from processors import table_reader
from processors import text_lines
from processors.text_lines import shown


_NAME_FILES = ("emotions.txt", "labels.txt")


class GoEmotionsProcessor(base.FileProcessor):
  """`train.tsv`, `dev.tsv`, `test.tsv` and `emotions.txt` or `labels.txt`.

  A row whose numbers are empty has no labels.
  """

  extensions = (".tsv",)
  options_used = ("dev_fraction", "encoding", "quoting")

  def __init__(self, options=None):
    super(GoEmotionsProcessor, self).__init__(options)
    if self.options["quoting"] == table_reader.STANDARD:
      raise ValueError("--quoting=standard: files of GoEmotions are not "
                       "quoted; leave it out.")

  def get_labels(self, data_dir=None):
    """Returns the names, in the order of their numbers.

    Args:
      data_dir: str, the folder.

    Returns:
      list of str.

    Raises:
      ValueError: there is no file of names, there are two that differ, or the
        names are broken.
    """
    base.check_folder(data_dir)
    paths = [os.path.join(data_dir, name) for name in _NAME_FILES]
    encoding = self.options["encoding"]
    lists = [(path, base.read_labels_file(path, encoding)) for path in paths
             if os.path.lexists(path)]
    if not lists:
      raise ValueError("%s has no %s, which name the labels." % (
          data_dir, " or ".join(_NAME_FILES)))
    if lists[0][1] != lists[-1][1]:
      raise ValueError(
          "%s and %s differ: the numbers of the data can mean one of them "
          "only." % (lists[0][0], lists[1][0]))
    return lists[0][1]

  def read_rows(self, path, part, data_dir):
    """See `FileProcessor`; all parts are labelled."""
    names = self.get_labels(data_dir)
    by_number = {str(number): name for number, name in enumerate(names)}
    parse = functools.lru_cache(maxsize=4096)(
        lambda cell: _parse_numbers(cell, by_number))
    for line, text in text_lines.numbered_lines(
        path, self.options["encoding"], self.log_once):
      fields = text.split("\t")
      if len(fields) != 3:
        raise ValueError(
            "%s:%d: the row has %d fields, not 3: text, label numbers and id, "
            "with tabs between them." % (path, line, len(fields)))
      try:
        labels = parse(fields[1])
      except ValueError as error:
        raise ValueError("%s:%d: %s." % (path, line, error))
      yield line, fields[2].strip(), fields[0], None, labels


def _parse_numbers(cell, by_number):
  if not cell.strip():
    return ()
  numbers = [number.strip() for number in cell.split(",")]
  for number in numbers:
    if number not in by_number:
      raise ValueError("label %s is not a number from 0 to %d" % (
          shown(number), len(by_number) - 1))
  return tuple(dict.fromkeys(by_number[number] for number in numbers))
