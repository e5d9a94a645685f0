# SPDX-License-Identifier: Apache-2.0
"""Output for terminals: a progress line that is overwritten, and safe text.

Names of labels, texts and files come from others: a control character in them
could move the cursor, change the settings of the terminal or hide text.
"""

import logging as python_logging
import re
import shutil
import sys
import unicodedata

from absl import logging


# Control characters and direction marks: they move a terminal's cursor, change
# its settings, or show a text in a different order.
_UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f"
                     "\u2028-\u202e\u2066-\u2069]")


def printable(text):
  r"""Returns a text (str) with control characters and direction marks escaped.

  They become `\u001b` and the like, which JSON reads as the same characters.
  """
  return _UNSAFE.sub(lambda match: "\\u%04x" % ord(match.group()), text)


def cut(text, columns):
  """The beginning of a text (str), at most `columns` columns wide."""
  width = 0
  for number, char in enumerate(text):
    if not unicodedata.combining(char):
      width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    if width > columns:
      return text[:number]
  return text


class Formatter(python_logging.Formatter):
  """Formats log records and escapes their control characters."""

  def format(self, record):
    return printable(super(Formatter, self).format(record))


class Line(object):
  """A line that a terminal shows until the next log record.

  A context manager; it clears the line at its end.

  Attributes:
    is_terminal: bool, whether stderr is a terminal; if not, show nothing.
  """

  def __init__(self):
    self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
    self._is_drawn = False

  def show(self, text, separator=None):
    """Replaces the line by a text.

    Args:
      text: str. A narrower terminal shows only its beginning, because a wrapped
        line could not be overwritten.
      separator: str between the parts of the text; a part that does not fit is
        left out.
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
    """Keeps the line; further output starts on a new one."""
    if self._is_drawn:
      self._is_drawn = False
      sys.stderr.write("\n")
      sys.stderr.flush()

  def _clear(self, unused_record=None):
    """Clears the line; as a log filter, it passes every record."""
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
