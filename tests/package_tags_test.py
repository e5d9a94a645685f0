# SPDX-License-Identifier: Apache-2.0
"""Tests of the data set of package tags, with an index made here."""

import json

import pytest

from experiments import package_tags
from experiments.baseline_tfidf import load_data


def index(count=200):
  """Lines of a package index and of its descriptions in Chinese."""
  packages, texts = [], []
  for i in range(count):
    packages.append("Package: p%d\nSource: s%d (1.0)\nDescription-md5: m%d\n"
                    "Tag: role::%s, uitoolkit::TODO,\n special::x, all::yes\n"
                    % (i, i // 2, i, "ab"[i % 2]))
    texts.append("Package: p%d\nDescription-md5: m%d\nDescription-zh_CN: 第%d号"
                 "\n 第一\n 行。\n .\n two words\n" % (i, i, i))
  packages.append("Package: bare\nDescription-md5: n\n")
  packages.append("Package: old\nDescription-md5: new\nTag: role::a\n")
  packages.append("Package: z-twin\nDescription-md5: t\nTag: role::rare\n")
  texts.append("Package: bare\nDescription-md5: n\nDescription-zh_CN: 无\n")
  texts.append("Package: old\nDescription-md5: gone\nDescription-zh_CN: 旧\n")
  texts.append("Package: z-twin\nDescription-md5: t\nDescription-zh_CN: 第0号\n"
               " 第一\n 行。\n .\n two words\n")
  return "\n".join(packages), "\n".join(texts)


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
  paths = []
  for name, text in zip(("packages", "texts"), index()):
    paths.append(tmp_path / name)
    paths[-1].write_text(text, encoding="utf-8")
  monkeypatch.setattr(package_tags, "fetch", lambda language, folder: (
      [str(paths[0])], [str(paths[1])]))
  folder = tmp_path / "data"
  assert package_tags.main(["--language=zh_CN", "--min_count=5",
                            "--output_dir=%s" % folder]) == 0
  rows = {part: [json.loads(line) for line in (folder / (
      part + ".jsonl")).read_text(encoding="utf-8").splitlines()]
          for part in ("train", "dev", "test")}
  return folder, rows, capsys.readouterr().out


def test_texts_and_labels(made):
  folder, rows, said = made
  assert (folder / "labels.txt").read_text().split() == [
      "all::yes", "role::a", "role::b"]
  everything = {row["id"]: row for part in rows.values() for row in part}
  assert sorted(everything) == sorted("p%d" % i for i in range(200))
  for i in range(200):
    row = everything["p%d" % i]
    assert row["text"] == "第%d号。第一行。 two words" % i
    assert sorted(row["labels"]) == ["all::yes", "role::" + "ab"[i % 2]]
  assert ("148 train, 24 dev, 28 test texts, 3 labels, 2.00 "
          "labels per text") in said
  _, train, dev, test = load_data(str(folder), "jsonl")
  assert [len(part.texts) for part in (train, dev, test)] == [
      len(rows[part]) for part in ("train", "dev", "test")]


def test_parts_are_by_source_package_and_always_the_same(made):
  _, rows, _ = made
  sources = {part: {int(row["id"][1:]) // 2 for row in rows[part]}
             for part in rows}
  assert not sources["train"] & (sources["dev"] | sources["test"])
  assert not sources["dev"] & sources["test"]
  # A change of the hash would make other data of the same index.
  assert [len(rows[part]) for part in ("train", "dev", "test")] == [148, 24, 28]
  assert rows["train"][0]["id"] == "p72"


def test_a_language_that_the_mirror_does_not_have(
    tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(package_tags.subprocess, "run", lambda *args, **kw: (
      package_tags.subprocess.CompletedProcess(args, 100, b"E: nothing\n")))
  assert package_tags.main(["--language=xx",
                            "--output_dir=%s" % (tmp_path / "o")]) == 2
  assert capsys.readouterr().err == (
      "apt-get returned no descriptions in xx; its output: E: nothing\n")
  assert not (tmp_path / "o").exists()
