# SPDX-License-Identifier: Apache-2.0
"""What a person sees on a terminal: one line drawn over, and nothing raw.

Names of labels, texts and files are other people's: a control character among
them would move the cursor, change the settings of the terminal or hide what
stands before it.
"""

import logging as python_logging
import re
import shutil
import sys
import unicodedata

from absl import logging


# Control characters and marks of direction: they move a terminal's cursor,
# change its settings, or show a text in another order than it has.
_UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f"
                     "\u2028-\u202e\u2066-\u2069]")


def printable(text):
  r"""Returns a text (str) with control characters and direction marks shown.

  As `\u001b`, which JSON reads as the character itself.
  """
  return _UNSAFE.sub(lambda match: "\\u%04x" % ord(match.group()), text)


def cut(text, columns):
  """The beginning of a text (str) that is so many columns wide at most."""
  width = 0
  for number, char in enumerate(text):
    if not unicodedata.combining(char):
      width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    if width > columns:
      return text[:number]
  return text


class Formatter(python_logging.Formatter):
  """Records of a log in which no control character is left."""

  def format(self, record):
    return printable(super(Formatter, self).format(record))


class Line(object):
  """A line that a terminal shows until the next record of the log.

  A context manager; at its end, the line is taken off.

  Attributes:
    is_terminal: bool, whether stderr is one; else nothing is to be shown.
  """

  def __init__(self):
    self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
    self._is_drawn = False

  def show(self, text, separator=None):
    """Shows a text in place of the one before.

    Args:
      text: str. A terminal that is narrower shows its beginning: a longer line
        could not be drawn over.
      separator: str, what stands between its parts; only whole ones are shown.
    """
    text = printable(text)
    width = shutil.get_terminal_size().columns - 1
    shown = cut(text, width)
    if separator is not None and len(shown) < len(text):
      shown = text[:max(text.rfind(separator, 0, len(shown) + 1), 0)] or shown
    self._is_drawn = True
    sys.stderr.write("\r" + shown + "\033[K")
    sys.stderr.flush()

  def keep(self):
    """Leaves the line where it is; what comes next has a line of its own."""
    if self._is_drawn:
      self._is_drawn = False
      sys.stderr.write("\n")
      sys.stderr.flush()

  def _clear(self, unused_record=None):
    """Takes the line off; as a filter of the log, it lets all records pass."""
    if self._is_drawn:
      self._is_drawn = False
      sys.stderr.write("\r\033[K")
      sys.stderr.flush()
    return True

  def __enter__(self):
    if self.is_terminal:
      logging.get_absl_handler().addFilter(self._clear)
    return self

  def __exit__(self, *unused_error):
    if self.is_terminal:
      logging.get_absl_handler().removeFilter(self._clear)
      self._clear()
