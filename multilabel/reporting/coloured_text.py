# SPDX-License-Identifier: Apache-2.0
"""Texts whose words are colored by weight: in a terminal, and as a page.

Red is for a label, blue against it; the strongest word of a label has the
strongest color. What the model did not read is dim. Needs no TensorFlow.
"""

import collections
import html
import unicodedata


# One text that was explained: a list of one str, or of two for a pair, and a
# list of `occlusion.LabelExplanation`.
ExplainedText = collections.namedtuple("ExplainedText", ["texts", "labels"])

# Below this fraction of the strongest weight, a word has no color.
_FAINTEST = 0.1

# Numbers of a 256-color terminal from faint to strong, black text on them.
_RED = (224, 217, 210, 203, 196)
_BLUE = (189, 153, 111, 75, 33)
_BLACK = 16
_RESET = "\033[0m"
_DIM = "\033[2m"
_BOLD = "\033[1m"

# Joiners inside emoji and Persian words: the only format characters kept.
_JOINERS = u"\u200c\u200d"


def printable(text):
  """Makes a text safe to print: without control and direction characters.

  Args:
    text: str.

  Returns:
    str: line ends are "\\n", tabs are spaces, and what could move the cursor,
    turn the direction of the text or is not a character is written as "\\x1b".
  """
  safe = []
  for char in text.replace("\r\n", "\n").replace("\r", "\n"):
    if char == "\t":
      safe.append(" ")
    elif char == "\n" or char in _JOINERS or unicodedata.category(
        char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
      safe.append(char)
    else:
      safe.append(char.encode("unicode_escape").decode("ascii"))
  return "".join(safe)


def pieces(text, part, words):
  """Splits a text into words and the text between them.

  Args:
    text: str.
    part: int, 0 or 1, the text's place in a pair.
    words: list of `words.WordWeight`; those of another part are skipped.

  Yields:
    (str, `WordWeight` or None), which joined are the text.
  """
  end = 0
  for word in words:
    if word.part != part:
      continue
    if word.start > end:
      yield text[end:word.start], None
    yield text[word.start:word.end], word
    end = word.end
  if end < len(text):
    yield text[end:], None


def strengths(words):
  """{(part, start): -1 to 1} of words that have a weight; 1 is the strongest.
  """
  weights = {(word.part, word.start): word.weight for word in words
             if word.weight is not None}
  strongest = max([abs(weight) for weight in weights.values()] or [0.0])
  return {place: weight / strongest if strongest else 0.0
          for place, weight in weights.items()}


def count_unread(explained):
  """How many words of a text the model did not read."""
  return sum(word.weight is None for word in explained.labels[0].words)


def terminal_text(explained):
  """One text for a terminal of 256 colors: str of lines."""
  lines = []
  for label in explained.labels:
    lines.append("%.3f  %s%s%s%s" % (
        label.probability, _BOLD, _one_line(label.label), _RESET,
        "" if label.is_predicted else "  (not predicted)"))
    strength = strengths(label.words)
    for part, text in enumerate(explained.texts):
      coloured = "".join(
          _terminal_word(piece, word, strength)
          for piece, word in pieces(text, part, label.words))
      lines.extend("  " + line for line in coloured.split("\n"))
  return "\n".join(lines + [_unread_line(explained)]).rstrip("\n") + "\n"


def _terminal_word(piece, word, strength):
  """A piece of text with the codes of its color around it, line by line."""
  if word is None:
    return printable(piece)
  value = strength.get((word.part, word.start))
  if value is None:
    code = _DIM
  elif abs(value) < _FAINTEST:
    return printable(piece)
  else:
    colours = _RED if value > 0 else _BLUE
    level = min(len(colours) - 1, int(abs(value) * len(colours)))
    code = "\033[38;5;%d;48;5;%dm" % (_BLACK, colours[level])
  # No color continues on the next line.
  return "\n".join(code + line + _RESET for line in
                   printable(piece).split("\n"))


def terminal_legend():
  """One line that says what the colors mean: str."""
  def sample(colour, words):
    return "\033[38;5;%d;48;5;%dm %s %s" % (_BLACK, colour, words, _RESET)

  return ("%s %s the label, %snot read%s; the strongest word of each label has "
          "full color\n" % (sample(_RED[-1], "for"),
                                 sample(_BLUE[-1], "against"), _DIM, _RESET))


def plain_text(explained):
  """One text as lines "label<TAB>probability", "  word<TAB>weight": str."""
  lines = []
  for label in explained.labels:
    lines.append("%s\t%.3f%s" % (
        _one_line(label.label), label.probability,
        "" if label.is_predicted else "\tnot predicted"))
    lines.extend("  %s\t%s" % (
        _one_line(word.word),
        "not read" if word.weight is None else "%+.4f" % word.weight)
                 for word in label.words)
  return "\n".join(lines + [_unread_line(explained)]).rstrip("\n") + "\n"


def _one_line(text):
  return printable(text).replace("\n", "\\n")


def _unread_line(explained):
  unread, total = count_unread(explained), len(explained.labels[0].words)
  if not total:
    return "  (no words)"
  return "  (%d of %d words were not read: the text is longer than the " \
      "model's limit)" % (unread, total) if unread else ""


_STYLE = """
:root { color-scheme: light dark; --text: #1c1c1e; --dim: #6b6b70;
  --page: #fff; --box: #f5f5f7; --line: #d9d9de; --for: 214, 39, 40;
  --against: 31, 105, 200; }
@media (prefers-color-scheme: dark) { :root { --text: #ececf0; --dim: #9a9aa2;
  --page: #16161a; --box: #222228; --line: #3a3a42; --for: 225, 60, 60;
  --against: 64, 130, 230; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; color: var(--text);
  background: var(--page); font: 16px/1.6 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; }
h2 { font-size: 1rem; margin: 2rem 0 .3rem; color: var(--dim); }
h3 { font-size: 1rem; margin: 0 0 .4rem; display: flex; gap: .6rem;
  flex-wrap: wrap; overflow-wrap: anywhere; }
h3 span, .note, summary { color: var(--dim); font-weight: normal; }
.note { font-size: .9rem; margin: .2rem 0; overflow-wrap: anywhere; }
article { background: var(--box); border: 1px solid var(--line);
  border-radius: .5rem; padding: .8rem 1rem; margin: .6rem 0;
  break-inside: avoid; }
p.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .4rem; }
.for, .against { border-radius: .2rem; padding: .05rem 0;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.for { background: rgba(var(--for), var(--s)); }
.against { background: rgba(var(--against), var(--s)); }
.unread { color: var(--dim); }
.legend span { padding: .1rem .4rem; margin-right: .3rem; }
.legend .for, .legend .against { color: var(--text); }
summary { cursor: pointer; font-size: .9rem; }
table { border-collapse: collapse; font-size: .9rem; }
td { padding: .1rem .8rem .1rem 0; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'">
<title>Words behind the labels</title>
<style>%s</style>
</head>
<body>
<h1>Words behind the labels</h1>
<p class="note">%s</p>
<p class="note legend"><span class="for" style="--s:.7">for the label</span>
<span class="against" style="--s:.7">against it</span>
<span class="unread">not read</span> The strongest word of each label has
full color.</p>
%s
</body>
</html>
"""


def html_page(explained_texts, note):
  """One self-contained HTML page: no script, nothing fetched.

  Args:
    explained_texts: list of `ExplainedText`.
    note: str, shown under the heading.

  Returns:
    str.
  """
  return _PAGE % (_STYLE, _escape(note), "\n".join(
      _html_text(number, explained)
      for number, explained in enumerate(explained_texts, 1)))


def _html_text(number, explained):
  lines = ["<section>", "<h2>Text %d</h2>" % number]
  unread = count_unread(explained)
  if unread:
    lines.append("<p class=\"note\">%d of %d words were not read: the text is "
                 "longer than the model's limit.</p>" % (
                     unread, len(explained.labels[0].words)))
  lines.extend(_html_label(explained.texts, label)
               for label in explained.labels)
  return "\n".join(lines + ["</section>"])


def _html_label(texts, label):
  """A box: the label, the colored text, the words' weights as a table."""
  strength = strengths(label.words)
  lines = ["<article>", "<h3>%s <span>%.3f%s</span></h3>" % (
      _escape(label.label), label.probability,
      "" if label.is_predicted else ", not predicted")]
  for part, text in enumerate(texts):
    lines.append('<p class="text" dir="auto">%s</p>' % "".join(
        _html_word(piece, word, strength)
        for piece, word in pieces(text, part, label.words)))
  read = [word for word in label.words if word.weight is not None]
  rows = ['<tr><td dir="auto">%s</td><td class="number">%+.4f</td></tr>' % (
      _escape(word.word), word.weight)
          for word in sorted(read, key=lambda word: -abs(word.weight))]
  lines.append("<details><summary>%d weights</summary><table>%s</table>"
               "</details>" % (len(rows), "".join(rows)))
  return "\n".join(lines + ["</article>"])


def _html_word(piece, word, strength):
  if word is None:
    return _escape(piece)
  value = strength.get((word.part, word.start))
  if value is None:
    return '<span class="unread">%s</span>' % _escape(piece)
  if abs(value) < _FAINTEST:
    return '<span title="%+.4f">%s</span>' % (word.weight, _escape(piece))
  return '<span class="%s" style="--s:%.2f" title="%+.4f">%s</span>' % (
      "for" if value > 0 else "against", 0.75 * abs(value), word.weight,
      _escape(piece))


def _escape(text):
  """HTML of a text; control characters, which HTML may not have, are shown."""
  return html.escape(printable(text))
