# SPDX-License-Identifier: Apache-2.0
"""README.md and README.zh.md say the same where it can be compared.

Sections are paired by their order. Of each pair are compared: flags, code
blocks line by line, inline code, links, placeholders, figures outside of code,
and tables row by row. Figures in code are compared with the code.
"""

import collections
import io
import os
import re

import pytest


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENGLISH = "README.md"
CHINESE = "README.zh.md"

# ASCII classes only: \w and \b take Chinese characters for letters.
FLAG = re.compile(r"(?<![A-Za-z0-9_-])--[a-z][a-z0-9_]*")
FIGURE = re.compile(r"(?<![A-Za-z0-9_.])[0-9]+(?:[.,][0-9]+)*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE_CODE = re.compile(r"`([^`]+)`")
PLACEHOLDER = re.compile(r"@@[A-Z0-9_]+@@")
COMMAND = re.compile(r"(?:python3?|pip|export|cat|tensorboard) ")

# `level` and `title` of the heading, then the lines of code, of tables and of
# all the rest.
Section = collections.namedtuple(
    "Section", ["level", "title", "code", "tables", "prose"])


def read(name):
  with io.open(os.path.join(ROOT, name), encoding="utf-8") as reader:
    return reader.read()


def sections_of(text):
  """Splits a README at its headings; a comment in code is not a heading."""
  sections = [Section(0, "before the first heading", [], [], [])]
  fenced = False
  for line in text.splitlines():
    heading = re.match(r"(#+) (.*)", line)
    if line.startswith("```"):
      fenced = not fenced
      sections[-1].code.append(line)
    elif fenced or line.startswith("    "):
      sections[-1].code.append(line)
    elif heading:
      sections.append(
          Section(len(heading.group(1)), heading.group(2), [], [], []))
    elif line.startswith("|"):
      sections[-1].tables.append(line)
    else:
      sections[-1].prose.append(line)
  return sections


def found(pattern, *groups):
  """What a pattern finds in groups of lines; a line end counts as a space."""
  return [" ".join(item.split())
          for lines in groups for item in pattern.findall("\n".join(lines))]


def compare_items(kind, english, chinese, where):
  """Says of each item that one README has more often than the other."""
  counts = ((ENGLISH, collections.Counter(english)),
            (CHINESE, collections.Counter(chinese)))
  messages = []
  for (rich, more), (poor, less) in (counts, counts[::-1]):
    for item in sorted((more - less).keys()):
      messages.append("%s: %s lacks the %s %r (%d times there, %d in %s)" % (
          where, poor, kind, item, less[item], more[item], rich))
  return messages


def compare_tables(english, chinese, where):
  """Compares the cells and the figures of tables row by row."""
  if len(english) != len(chinese):
    return ["%s: tables of %d lines in %s, %d in %s" % (
        where, len(english), ENGLISH, len(chinese), CHINESE)]
  messages = []
  for row, mirrored in zip(english, chinese):
    place = "%s, table row %r" % (where, row)
    if row.count("|") != mirrored.count("|"):
      messages.append("%s: %d bars in %s, %d in %s" % (
          place, row.count("|"), ENGLISH, mirrored.count("|"), CHINESE))
    figures, others = found(FIGURE, [row]), found(FIGURE, [mirrored])
    messages += compare_items("figure", figures, others, place)
    if figures != others and sorted(figures) == sorted(others):
      messages.append("%s: figures in the order %s in %s, %s in %s" % (
          place, figures, ENGLISH, others, CHINESE))
  return messages


def compare_sections(english, chinese):
  """Compares a section with its translation."""
  where = "section %r" % english.title
  if english.level != chinese.level:
    return ["%s: a heading of level %d in %s, %d in %s" % (
        where, english.level, ENGLISH, chinese.level, CHINESE)]
  messages = compare_items("flag", found(FLAG, *english[2:]),
                           found(FLAG, *chinese[2:]), where)
  messages += compare_items("line of code", english.code, chinese.code, where)
  if (english.code != chinese.code and
      sorted(english.code) == sorted(chinese.code)):
    messages.append("%s: the lines of code have another order in %s" % (
        where, CHINESE))
  for kind, pattern in (("inline code", INLINE_CODE), ("link", LINK),
                        ("placeholder", PLACEHOLDER)):
    messages += compare_items(
        kind, found(pattern, english.tables, english.prose),
        found(pattern, chinese.tables, chinese.prose), where)
  messages += compare_items("figure", found(FIGURE, english.prose),
                            found(FIGURE, chinese.prose), where)
  return messages + compare_tables(english.tables, chinese.tables, where)


def differences(english, chinese):
  """Returns what differs between the texts of the READMEs, a line each."""
  # They link to each other, which is the one link that cannot be the same.
  english = english.replace("](%s)" % CHINESE, "](the-other-README)")
  chinese = chinese.replace("](%s)" % ENGLISH, "](the-other-README)")
  pairs = sections_of(english), sections_of(chinese)
  if len(pairs[0]) != len(pairs[1]):
    titles = [[section.title for section in sections] for sections in pairs]
    return ["%d headings in %s: %s; %d in %s: %s" % (
        len(titles[0]) - 1, ENGLISH, "; ".join(titles[0][1:]),
        len(titles[1]) - 1, CHINESE, "; ".join(titles[1][1:]))]
  return [message for section, mirrored in zip(*pairs)
          for message in compare_sections(section, mirrored)]


def without_one(text, old, new=""):
  """Replaces one occurrence, which must be there."""
  assert old in text
  return text.replace(old, new, 1)


def test_they_say_the_same():
  problems = differences(read(ENGLISH), read(CHINESE))
  assert not problems, "\n" + "\n".join(problems)


def test_they_link_to_each_other():
  assert read(ENGLISH).splitlines()[2] == u"[\u4e2d\u6587\u8bf4\u660e](%s)" % (
      CHINESE)
  assert read(CHINESE).splitlines()[2] == "[English](%s)" % ENGLISH


def test_the_comparison_sees_what_it_compares():
  """No pattern finds nothing, which would make the comparison empty."""
  sections = sections_of(read(ENGLISH))
  lines = [line for section in sections for group in section[2:]
           for line in group]
  flags = set(found(FLAG, lines))
  assert {"--task_name", "--output_dir", "--encoder", "--format"} <= flags
  code = [line.strip() for section in sections for line in section.code]
  assert "python3 examples/attack_tactics/demo.py" in code
  assert "from predict_session import SessionPredictor" in code
  assert len([line for line in code if COMMAND.match(line)]) >= 8
  assert "docs/serving.md" in found(LINK, lines)
  assert {"0.5", "2.21", "0.825"} <= set(found(FIGURE, lines))
  assert "## Documents" not in lines
  assert "Documents" in [section.title for section in sections]


@pytest.mark.parametrize("poor", [ENGLISH, CHINESE])
def test_every_flag_that_is_taken_out_is_missed(poor):
  flags = set(FLAG.findall(read(ENGLISH)))
  assert len(flags) > 15
  for flag in sorted(flags):
    texts = {ENGLISH: read(ENGLISH), CHINESE: read(CHINESE)}
    whole = re.compile(re.escape(flag) + r"(?![a-z0-9_])")
    texts[poor], changed = whole.subn("", texts[poor], count=1)
    assert changed == 1
    found_out = differences(texts[ENGLISH], texts[CHINESE])
    expected = "%s lacks the flag %r" % (poor, flag)
    assert [line for line in found_out if expected in line], flag


@pytest.mark.parametrize("poor", [ENGLISH, CHINESE])
@pytest.mark.parametrize("old, new, message", [
    ("micro-F1  macro-F1     mAP", "micro-F1", "line of code '    1430 test"),
    ("0.825", "0.826", "line of code '    BERT, fine-tuned on 4000"),
    ("    pip install .", "    pip3 install .",
     "line of code '    pip install"),
    ("(docs/serving.md)", "(serving.md)", "link 'docs/serving.md'"),
    ("`report.html`", "report.html", "inline code 'report.html'"),
    ("2.15", "2.16", "figure '2.15'"),
])
def test_a_change_in_one_of_them_is_told(poor, old, new, message):
  texts = {ENGLISH: read(ENGLISH), CHINESE: read(CHINESE)}
  texts[poor] = without_one(texts[poor], old, new)
  found_out = differences(texts[ENGLISH], texts[CHINESE])
  expected = "%s lacks the %s" % (poor, message)
  assert [line for line in found_out if expected in line], found_out


SMALL_ENGLISH = u"""# Title

[\u4e2d\u6587](README.zh.md)

Cut with `--stride` at 0.5, or 12
texts. @@CV@@

    python run.py --stride=3
    pip install it

| what | F1 | mAP |
| --- | --- | --- |
| one | 0.825 | 0.754 |

## Second

```python
# A comment, not a heading.
print(1)
```
"""
SMALL_CHINESE = (
    SMALL_ENGLISH.replace(u"[\u4e2d\u6587](README.zh.md)", "[En](README.md)")
    .replace(u"Cut with `--stride` at 0.5, or 12\ntexts.",
             u"\u752812\u6761`--stride`\u62160.5\u3002"))


def test_a_translation_is_the_same():
  assert SMALL_CHINESE != SMALL_ENGLISH
  assert differences(SMALL_ENGLISH, SMALL_CHINESE) == []


@pytest.mark.parametrize("old, new, expected", [
    ("`--stride`", "", [
        "section 'Title': README.zh.md lacks the flag '--stride' "
        "(1 times there, 2 in README.md)",
        "section 'Title': README.zh.md lacks the inline code '--stride' "
        "(0 times there, 1 in README.md)"]),
    ("0.754", "0.755", [
        "section 'Title', table row '| one | 0.825 | 0.754 |': README.zh.md "
        "lacks the figure '0.754' (0 times there, 1 in README.md)",
        "section 'Title', table row '| one | 0.825 | 0.754 |': README.md "
        "lacks the figure '0.755' (0 times there, 1 in README.zh.md)"]),
    ("0.825 | 0.754", "0.754 | 0.825", [
        "section 'Title', table row '| one | 0.825 | 0.754 |': figures in "
        "the order ['0.825', '0.754'] in README.md, ['0.754', '0.825'] in "
        "README.zh.md"]),
    ("| one | 0.825 | 0.754 |\n", "", [
        "section 'Title': tables of 3 lines in README.md, 2 in "
        "README.zh.md"]),
    ("    pip install it\n", "", [
        "section 'Title': README.zh.md lacks the line of code "
        "'    pip install it' (0 times there, 1 in README.md)"]),
    ("    python run.py --stride=3\n    pip install it\n",
     "    pip install it\n    python run.py --stride=3\n", [
         "section 'Title': the lines of code have another order in "
         "README.zh.md"]),
    ("@@CV@@", "", [
        "section 'Title': README.zh.md lacks the placeholder '@@CV@@' "
        "(0 times there, 1 in README.md)"]),
    ("[En](README.md)", "", [
        "section 'Title': README.zh.md lacks the link 'the-other-README' "
        "(0 times there, 1 in README.md)"]),
    ("## Second", "### Second", [
        "section 'Second': a heading of level 2 in README.md, 3 in "
        "README.zh.md"]),
    ("## Second\n", "", [
        "2 headings in README.md: Title; Second; 1 in README.zh.md: Title"]),
])
def test_what_the_comparison_tells(old, new, expected):
  assert differences(SMALL_ENGLISH,
                     without_one(SMALL_CHINESE, old, new)) == expected
