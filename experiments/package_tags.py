# SPDX-License-Identifier: Apache-2.0
"""Makes a multi-label data set of Debian's packages: descriptions and tags.

  python -m experiments.package_tags --language=en --output_dir=DIR
  python -m experiments.package_tags --language=zh_CN --output_dir=DIR

writes DIR/train.jsonl, dev.jsonl, test.jsonl and labels.txt, for
`--task_name=jsonl`: the descriptions of packages, in English or as volunteers
have translated them, and their debtags, such as `role::program`.

apt-get fetches the package index from the mirror that this machine is
configured with, into a folder of its own that is removed at the end, and checks
its signature and hashes. It needs no right to install anything.

- Packages without tags are left out. Tags that mark open work (`...::TODO`,
  `special::...`) are no labels.
- A translation counts if it is of the description that the package has now.
- Packages with the same text are one example with the tags of all.
- Labels are the tags that at least --min_count texts of train have.
- Packages of one source package have similar texts, so a hash of its name
  chooses the part: 15% test, 15% dev, 70% train.
- The lines are in the order of a hash: the first N are a fair sample.
"""

import argparse
import collections
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

from multilabel.common import atomic_files


PARTS = (("test", 0.15), ("dev", 0.30), ("train", 1.0))

_NO_LABEL = re.compile(r"(.*::TODO|special::.*)$")
_HAN = "\u3400-\u9fff\uf900-\ufaff\u3000-\u303f\uff00-\uffef"
# Lines were folded: between such characters the break stands for nothing.
_BREAK_IN_HAN = re.compile("(?<=[%s]) (?=[%s])" % (_HAN, _HAN))


def fetch(language, folder):
  """Fetches the index with apt-get into an empty folder.

  Returns:
    (paths of package indices, paths of descriptions), lists of str.

  Raises:
    ValueError: it brought no descriptions in the language.
    OSError: there is no apt-get.
  """
  for name in ("lists/partial", "cache"):
    os.makedirs(os.path.join(folder, name))
  options = [word for pair in (
      ("Dir::State::lists", os.path.join(folder, "lists")),
      ("Dir::Cache", os.path.join(folder, "cache")),
      ("Acquire::Languages", language), ("Acquire::GzipIndexes", "false"),
      ("APT::Sandbox::User", "root")) for word in ("-o", "%s=%s" % pair)]

  def run(*command):
    return subprocess.run(
        list(command) + options, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(os.environ, LC_ALL="C")).stdout.decode("utf-8", "replace")

  said = run("apt-get", "-q", "update")
  found = [line.split("\t") for line in run(
      "apt-get", "indextargets", "--format",
      "$(CREATED_BY)\t$(LANGUAGE)\t$(FILENAME)").splitlines()]
  found = [target for target in found
           if len(target) == 3 and os.path.isfile(target[2])]
  packages = [target[2] for target in found if target[0] == "Packages"]
  texts = [target[2] for target in found
           if target[:2] == ["Translations", language]]
  if not packages or not texts:
    raise ValueError(
        "apt-get returned no descriptions in %s; its output: %s" % (
        language, " / ".join(said.splitlines()[-3:])))
  return packages, texts


def read_paragraphs(paths):
  """Yields dicts of field to text, continued lines without their space."""
  for path in paths:
    fields, last = {}, None
    with open(path, encoding="utf-8") as reader:
      for line in reader:
        line = line.rstrip("\n")
        if not line:
          if fields:
            yield fields
          fields = {}
        elif line[0] in " \t":
          fields[last] += "\n" + line[1:]
        else:
          last, _, value = line.partition(":")
          fields[last] = value.strip()
    if fields:
      yield fields


def clean_text(description):
  """One line of a description: its title, a full stop, its text."""
  title, _, body = description.partition("\n")
  lines = [line for line in body.split("\n") if line.strip() != "."]
  title, body = [_BREAK_IN_HAN.sub("", " ".join(text.split()))
                 for text in (title, " ".join(lines))]
  if not title or not body:
    return title or body
  stop = "\u3002" if re.search("[%s]$" % _HAN, title) else ". "
  return title.rstrip(".\u3002") + stop + body


def share(name):
  """Maps a name to [0, 1), evenly and always the same."""
  digest = hashlib.sha256(name.encode("utf-8")).hexdigest()
  return int(digest[:12], 16) / 2.0 ** 48


def make_examples(packages, texts, language):
  """Joins paragraphs of package indices and of descriptions.

  Returns:
    {"train", "dev", "test": list of dict with `id`, `text` and `labels`, a
    set of all tags}.
  """
  known = {}
  for fields in packages:
    tags = {tag for tag in re.split(r"[,\s]+", fields.get("Tag", ""))
            if tag and not _NO_LABEL.match(tag)}
    if tags:
      key = fields["Package"], fields.get("Description-md5")
      source = fields.get("Source", fields["Package"]).split(" ")[0]
      known.setdefault(key, (source, tags))
  merged = collections.OrderedDict()
  for name, md5, text in sorted(
      (fields["Package"], fields["Description-md5"],
       clean_text(fields.get("Description-" + language, "")))
      for fields in texts):
    if text and (name, md5) in known:
      source, tags = known[name, md5]
      merged.setdefault(text, (name, source, set()))[2].update(tags)
  parts = collections.OrderedDict((name, []) for name, _ in PARTS[::-1])
  for text, (name, source, tags) in merged.items():
    part = next(part for part, below in PARTS if share(source) < below)
    parts[part].append({"id": name, "text": text, "labels": tags})
  for examples in parts.values():
    examples.sort(key=lambda example: share(example["id"]))
  return parts


def write(output_dir, parts, min_count, max_labels=None):
  """Writes the data set; returns its labels, the most frequent first."""
  counts = collections.Counter(
      tag for example in parts["train"] for tag in example["labels"])
  labels = sorted((tag for tag in counts if counts[tag] >= min_count),
                  key=lambda tag: (-counts[tag], tag))[:max_labels]
  os.makedirs(output_dir, exist_ok=True)
  for name, examples in parts.items():
    atomic_files.write_text(
        os.path.join(output_dir, name + ".jsonl"),
        "".join(json.dumps(dict(example, labels=[
            label for label in labels if label in example["labels"]]),
                           ensure_ascii=False) + "\n" for example in examples))
  atomic_files.write_text(os.path.join(output_dir, "labels.txt"),
                          "".join(label + "\n" for label in labels))
  return labels


def main(argv=None):
  parser = argparse.ArgumentParser(prog="python -m experiments.package_tags",
                                   description=__doc__.split("\n")[0])
  parser.add_argument("--language", default="en", help="en, zh_CN, de, ja, ...")
  parser.add_argument("--min_count", type=int, default=10,
                      help="minimum number of train texts with a label")
  parser.add_argument("--max_labels", type=int, help="labels to keep")
  parser.add_argument("--output_dir", required=True)
  options = parser.parse_args(argv)
  try:
    with tempfile.TemporaryDirectory(prefix="package-index-") as folder:
      packages, texts = fetch(options.language, folder)
      parts = make_examples(read_paragraphs(packages), read_paragraphs(texts),
                            options.language)
    labels = write(options.output_dir, parts, options.min_count,
                   options.max_labels)
  except (ValueError, OSError) as error:
    sys.stderr.write("%s\n" % error)
    return 2 if isinstance(error, ValueError) else 1
  examples = [example for part in parts.values() for example in part]
  kept = sum(len(example["labels"].intersection(labels))
             for example in examples)
  sizes = ", ".join("%d %s" % (len(part), name)
                    for name, part in parts.items())
  print("%s: %s texts, %d labels, %.2f labels per text" % (
      options.output_dir, sizes, len(labels), kept / max(1.0, len(examples))))
  return 0


if __name__ == "__main__":
  sys.exit(main())
