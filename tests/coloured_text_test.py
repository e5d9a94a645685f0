# SPDX-License-Identifier: Apache-2.0
"""Tests of coloured words: in a terminal, as lines, as a page."""

import re
import unicodedata

from multilabel.reporting import occlusion
from multilabel.reporting import coloured_text
from multilabel.reporting import words


def explained(texts, weights, label=u"fruit", is_predicted=True):
  """An `ExplainedText` of words between spaces, a list of weights per text."""
  weighed = []
  for part, (text, row) in enumerate(zip(texts, weights)):
    places = [match.span() for match in re.finditer(r"\S+", text)]
    weighed += [words.WordWeight(text[start:end], start, end, weight, part)
              for (start, end), weight in zip(places, row)]
  return coloured_text.ExplainedText(texts, [
      occlusion.LabelExplanation(label, 0.75, is_predicted, weighed)])


def test_terminal_colours():
  shown = coloured_text.terminal_text(explained(
      [u"good bad so  faint\nunread"], [[2.0, -1.0, 0.5, 0.1, None]]))
  assert shown == (
      u"0.750  \x1b[1mfruit\x1b[0m\n"
      u"  \x1b[38;5;16;48;5;196mgood\x1b[0m \x1b[38;5;16;48;5;111mbad\x1b[0m "
      u"\x1b[38;5;16;48;5;217mso\x1b[0m  faint\n"
      u"  \x1b[2munread\x1b[0m\n"
      u"  (1 of 5 words were not read: the text is longer than the model's "
      u"limit)\n")


def test_terminal_gets_no_codes_of_the_text():
  bad = u"\x1b[31m\x9b1m\x07\u202e\u2066\ud800\u2028\r\n\tx\x00"
  item = explained([bad], [[1.0] * 9], label=u"\x1b]0;title\x07")
  for shown in (coloured_text.terminal_text(item),
                coloured_text.plain_text(item)):
    rest = re.sub(u"\033\\[[0-9;]*m", u"", shown)
    assert not [char for char in rest if char not in u"\n\t" and
                unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    shown.encode("utf-8")
  assert u"\\x1b[31m\\x9b1m\\x07\\u202e" in coloured_text.terminal_text(item)
  assert u"\033[31m" not in coloured_text.terminal_text(item)
  assert u"\033" not in coloured_text.plain_text(item)


def test_joined_emoji_stay_joined():
  text = u"\U0001f469\u200d\U0001f680"
  assert coloured_text.printable(text) == text


def test_plain_lines():
  assert coloured_text.plain_text(explained(
      [u"good bad", u"x"], [[2.0, -1.0], [None]], is_predicted=False)) == (
          u"fruit\t0.750\tnot predicted\n"
          u"  good\t+2.0000\n"
          u"  bad\t-1.0000\n"
          u"  x\tnot read\n"
          u"  (1 of 3 words were not read: the text is longer than the model's "
          u"limit)\n")
  assert coloured_text.plain_text(explained([u" "], [[]])) == (
      u"fruit\t0.750\n  (no words)\n")


def test_html_page():
  page = coloured_text.html_page([
      explained([u"<script>alert(1)</script> is \"bad\" & \x1b[0m"],
                [[1.0, 0.01, -0.5, None, 0.2]], label=u"<b>label</b>"),
      explained([u"first", u"second"], [[0.0], [0.0]])], u"Model <m>.")
  assert "<script" not in page and "<b>" not in page and "<m>" not in page
  assert ('<span class="for" style="--s:0.75" title="+1.0000">'
          "&lt;script&gt;alert(1)&lt;/script&gt;</span>") in page
  assert '<span title="+0.0100">is</span>' in page
  assert ('<span class="against" style="--s:0.38" title="-0.5000">'
          "&quot;bad&quot;</span>") in page
  assert '<span class="unread">&amp;</span>' in page
  assert "\\x1b[0m" in page and u"\x1b" not in page
  assert "1 of 5 words were not read" in page
  assert page.count("<article>") == 2 and page.count('<p class="text"') == 3
  # One file, for light and dark, narrow and wide.
  assert not re.search(r"https?:|src=|<link|url\(", page)
  assert "prefers-color-scheme: dark" in page
  assert 'name="viewport" content="width=device-width' in page
