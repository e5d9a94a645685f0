# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/prepare_package_tags.py; none needs apt or a network."""

import io
import json
import os

import pytest

from experiments import prepare_package_tags as prepare
import processors
import tiny_bert

PACKAGES = u"""\
Package: cat
Version: 1
Source: felines (1.2)
Description: a cat
Description-md5: 1111
Tag: role::program, implemented-in::c,
 interface::graphical, special::auto
Section: misc

Package: plain
Description-md5: 2222

Package: todo
Description-md5: 3333
Tag: suite::TODO

Package: dog
Description-md5: 4444
Tag: role::program

Package: cat
Description-md5: 9999
Tag: role::plugin
"""

TRANSLATION = u"""\
Package: cat
Description-md5: 1111
Description-zh_CN: \u732b
 \u8fd9\u662f
 \u4e00\u53ea\u732b\u3002
 .
 Cat \u732b

Package: cat
Description-md5: 0000
Description-zh_CN: \u65e7

Package: dog
Description-md5: 4444
Description-zh_CN: \u732b
 \u8fd9\u662f\u4e00\u53ea\u732b\u3002
 Cat \u732b

Package: plain
Description-md5: 2222
Description-zh_CN: x
"""


def write(path, text):
  tiny_bert.write_text(str(path), text)
  return str(path)


def test_packages(tmp_path):
  packages = prepare.read_packages(write(tmp_path / "p", PACKAGES))
  assert sorted(packages) == ["cat", "dog"]
  # The first of a name counts; tags that mark open work do not.
  assert packages["cat"] == prepare.Package(
      "cat", "felines", "1111",
      frozenset(["role::program", "implemented-in::c", "interface::graphical"]))
  assert packages["dog"].source == "dog"


def test_examples(tmp_path):
  packages = prepare.read_packages(write(tmp_path / "p", PACKAGES))
  descriptions = prepare.read_descriptions(
      write(tmp_path / "t", TRANSLATION), "zh_CN")
  examples, counts = prepare.make_examples(packages, descriptions)
  # Both have the same text, so they are one example with the tags of both.
  assert examples == [{
      "id": "cat", "source": "felines",
      "text": u"\u732b\u3002\u8fd9\u662f\u4e00\u53ea\u732b\u3002 Cat \u732b",
      "tags": {"role::program", "implemented-in::c", "interface::graphical"}}]
  assert list(counts.values()) == [2, 1, 1, 0]


@pytest.mark.parametrize("description, expected", [
    ("a title", "a title"),
    ("a title\n It does\n  * this\n .\n and that.",
     "a title. It does * this and that."),
    ("a title.\n More.", "a title. More."),
    (u"\u6807\u9898\n \u6587\n \u5b57 a\n b",
     u"\u6807\u9898\u3002\u6587\u5b57 a b"),
    ("\n .", ""),
])
def test_clean_text(description, expected):
  assert prepare.clean_text(description) == expected


def test_labels_are_the_most_frequent():
  examples = [{"tags": {"a", "b"}}, {"tags": {"a", "c"}}, {"tags": {"b", "d"}}]
  assert prepare.choose_labels(examples, 40, 2) == ["a", "b"]
  assert prepare.choose_labels(examples, 3, 1) == ["a", "b", "c"]


def test_split_keeps_sources_together():
  examples = [{"id": "%s-%d" % (source, i), "source": source}
              for source in "abcdefghijklmnopqrstuvwxyz" for i in range(4)]
  parts = prepare.split_examples(examples)
  assert sum(len(part) for part in parts.values()) == 104
  sources = [{example["source"] for example in part}
             for part in parts.values()]
  assert all(sources)
  assert len(set.union(*sources)) == sum(len(found) for found in sources)
  # sha256("a") begins with ca978112ca1b: 0.791...
  assert prepare.hash_share("a") == 0xca978112ca1b / 2.0 ** 48
  assert "a-0" in [example["id"] for example in parts["train"]]


def make_sources(folder, number):
  """Index files of `number` packages, as `fetch` leaves them."""
  folder.mkdir()
  write(folder / "Packages-en", u"".join(
      u"Package: p%d\nDescription-md5: %d\nTag: t::%s, t::all\n\n" % (
          i, i, "odd" if i % 2 else "even") for i in range(number)))
  write(folder / "Translation-en", u"".join(
      u"Package: p%d\nDescription-md5: %d\nDescription-en: number %d\n more\n\n"
      % (i, i, i) for i in range(number)))
  write(folder / "sources-en.json", u'{"origin": "Test 1", "language": "en"}')
  return str(folder)


def test_files_are_read_by_the_processor(tmp_path):
  sources = make_sources(tmp_path / "sources", 80)
  output = str(tmp_path / "data")
  lines = prepare.prepare("en", sources, output)
  assert lines[0] == ("Descriptions: 80 used, 0 of another version, 0 without "
                      "tags, 0 without text")
  processor = processors.create_processor("jsonl")
  assert processors.get_labels(processor, output) == [
      "t::all", "t::even", "t::odd"]
  total = 0
  for examples in (processor.get_train_examples(output),
                   processor.get_dev_examples(output),
                   processor.get_test_examples(output)):
    for example in examples:
      total += 1
      number = int(example.guid[1:])
      assert example.text_a == "number %d. more" % number
      assert example.labels == (
          "t::all", "t::odd" if number % 2 else "t::even")
  assert total == 80
  with io.open(os.path.join(output, "NOTICE.txt"), encoding="utf-8") as reader:
    assert "package index of Test 1, language en" in reader.read()


def test_too_little(tmp_path):
  sources = make_sources(tmp_path / "sources", 20)
  with pytest.raises(ValueError, match="only 20 tagged packages"):
    prepare.prepare("en", sources, str(tmp_path / "data"))
  assert not (tmp_path / "data").exists()


def test_broken_index(tmp_path):
  path = write(tmp_path / "p", u"Package: a\nno field\n")
  with pytest.raises(ValueError, match="p:2: not a field"):
    prepare.read_packages(path)


def test_without_apt(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(RuntimeError, match="no apt-get on this machine"):
    prepare.prepare("en", str(tmp_path / "s"), str(tmp_path / "d"))


def fake_apt(folder, script):
  path = folder / "apt-get"
  path.write_text(u"#!/bin/sh\n" + script, encoding="utf-8")
  path.chmod(0o755)
  return str(folder) + os.pathsep + os.environ["PATH"]


def test_without_network(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", fake_apt(tmp_path, u"echo W: no route\n"))
  with pytest.raises(RuntimeError, match="no package index in en; .* W: no r"):
    prepare.prepare("en", str(tmp_path / "s"), str(tmp_path / "d"))
  assert os.listdir(str(tmp_path / "s")) == []


def test_fetching_keeps_the_index_files(tmp_path, monkeypatch):
  made = make_sources(tmp_path / "made", 80)
  monkeypatch.setenv("PATH", fake_apt(tmp_path, u"""
test "$1" = indextargets || exit 0
printf 'Packages\\t$(LANGUAGE)\\tTest\\tone\\t1.5\\t%s/Packages-en\\n'
printf 'Translations\\ten\\tTest\\tone\\t1.5\\t%s/Translation-en\\n'
printf 'Translations\\tde\\tTest\\tone\\t1.5\\t%s/none\\n'
""" % (made, made, made)))
  sources = tmp_path / "sources"
  prepare.prepare("en", str(sources), str(tmp_path / "d"))
  assert sorted(os.listdir(str(sources))) == [
      "Packages-en", "Translation-en", "sources-en.json"]
  assert json.loads((sources / "sources-en.json").read_text()) == {
      "language": "en", "origin": "Test one 1.5"}
