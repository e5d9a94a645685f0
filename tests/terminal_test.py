# SPDX-License-Identifier: Apache-2.0
"""What a terminal is shown: one line drawn over, nothing raw."""

import io
import json
import logging as python_logging
import os
import sys

from absl import logging
import pytest

from multilabel.common import command_line
from multilabel.common import terminal
from multilabel.inference import prediction_writers
from multilabel.inference import predictor
from multilabel.training import progress


class Screen(io.StringIO):

  def isatty(self):
    return True

  def shown(self):
    """The lines that a terminal would show of it: list of str."""
    lines = []
    for line in self.getvalue().replace("\033[K", "").split("\n"):
      parts = line.split("\r")
      lines.append(parts[-1])
    return lines


def open_screen(monkeypatch):
  # No fixture: pytest puts its own stderr back between set-up and test.
  screen = Screen()
  monkeypatch.setattr(sys, "stderr", screen)
  return screen


def record(text):
  """Logs a record as the program's own handler does."""
  made = python_logging.LogRecord("absl", 20, "f", 1, text, (), None)
  assert logging.get_absl_handler().filter(made)
  sys.stderr.write(terminal.Formatter("%(message)s").format(made) + "\n")


VALUES = {"loss": 0.25, "learning_rate": 0.001, "shape": (4, 9),
          "num_tokens": 30, "grad_norm": 1.0}


@pytest.mark.parametrize("columns", [60, 200])
def test_records_while_a_run_shows_its_progress(monkeypatch, columns):
  screen = open_screen(monkeypatch)
  monkeypatch.setattr(terminal.shutil, "get_terminal_size",
                      lambda: os.terminal_size((columns, 30)))
  now = [1000.0]
  monkeypatch.setattr(progress.time, "time", lambda: now[0])
  filters = list(logging.get_absl_handler().filters)
  with progress.Progress(0, 4, 1, 4) as shown:
    for step in range(1, 5):
      now[0] += 1
      shown.update(step, VALUES)
      if step == 2:
        record("dev at step 2")
  assert logging.get_absl_handler().filters == filters
  lines = screen.shown()
  assert lines[0] == "dev at step 2" and lines[2:] == [""]
  whole = ("step 4/4  0:04, 0:00 left  loss 0.2500  lr 1.0e-03  4 examples/s  "
           "30 tokens/s")
  # Narrower: a part less, not half of one.
  assert lines[1] == (whole if columns == 200 else
                      whole[:whole.rindex("  4 examples")])
  # All of it was drawn, none over two lines.
  assert all(len(part) < columns for line in screen.getvalue().split("\n")
             for part in line.replace("\033[K", "").split("\r"))


def test_wide_characters_are_as_wide_as_they_are():
  assert terminal.cut(u"\u4e2d\u6587ab", 5) == u"\u4e2d\u6587a"
  assert terminal.cut(u"\u4e2d\u6587", 3) == u"\u4e2d"
  assert terminal.cut(u"e\u0301e\u0301", 1) == u"e\u0301"


BAD = u"\x1b[31mred\x1b[0m \u202ebidi\x9b \x07"


def test_nothing_raw_in_records_and_sentences(monkeypatch):
  screen = open_screen(monkeypatch)
  record("label " + BAD)
  monkeypatch.setattr(command_line, "FLAGS", type("F", (), {"debug": False}))
  command_line._report(ValueError("no file " + BAD), 2)
  with pytest.raises(SystemExit):
    command_line._fail("Unknown flag " + BAD, 2)
  with terminal.Line() as line:
    line.show(u"Reading " + BAD)
    line.keep()
  assert screen.getvalue().count("\\u001b[31mred") == 4
  # Its own codes apart, none.
  left = screen.getvalue().replace("\r", "").replace("\033[K", "")
  assert all(char.isprintable() or char == "\n" for char in left)


def test_json_lines_on_a_terminal_are_the_same_json():
  described = predictor.Described([(BAD, 0.75)], {BAD: 0.75})
  streams = []
  for is_terminal in (False, True):
    streams.append(io.BytesIO())
    prediction_writers.json_writer(streams[-1], is_terminal)(
        (BAD, u"caf\xe9 " + BAD, None), described)
  plain, safe = [stream.getvalue().decode("utf-8") for stream in streams]
  assert json.loads(plain) == json.loads(safe)
  assert u"caf\xe9" in safe and safe.rstrip("\n").isprintable()
