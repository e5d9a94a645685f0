# SPDX-License-Identifier: Apache-2.0
"""Makes a multi-label data set of Debian packages: descriptions and tags.

  python -m experiments.prepare_package_tags --language=zh_CN \\
      --output_dir=DIR --sources_dir=SOURCES

writes DIR/train.jsonl, dev.jsonl, test.jsonl, labels.txt and NOTICE.txt, for
`--task_name=jsonl`. zh_CN has about 1,000 texts in Chinese, en about 30,000 in
English.

The texts are the package descriptions of the distribution's index files, in
English or as its volunteers have translated them; the labels are the tags
(debtags) of the field `Tag:`, such as `role::program`. The index files are
fetched by apt-get from the sources that the machine is configured with, into a
folder of their own (no right to install anything is needed), and kept in
SOURCES, from where they are taken the next time.

Rules
- Packages without tags are left out: nobody has looked at them. Tags that mark
  open work (`...::TODO`, `special::...`) are no labels.
- A translation counts if it is one of the description that the package has now
  (the hashes agree).
- A text that several packages have is one example with the tags of all.
- Labels are the --num_tags most frequent tags that at least --min_texts texts
  have; a text may have none of them.
- Packages of one source package have like texts, so that a hash of its name
  decides on the part: 15% test, 15% dev, the rest train.
- Each file is ordered by a hash of the id: its first N lines are a fair sample.
"""

import collections
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile

from absl import flags
from absl import logging

import atomic_files
import command_line

FLAGS = flags.FLAGS

TEST_BELOW = 0.15
DEV_BELOW = 0.30

NOTICE = u"""\
The files in this folder are made from the package index of %(origin)s, \
language %(language)s.

Texts: the descriptions of the packages. They are part of each package's
control file, written by its maintainers, under the terms of that package
(its /usr/share/doc/<package>/copyright). Descriptions in other languages than
English are translations by the volunteers of the Debian Description
Translation Project; the index files state no terms of their own for them.

Labels: the tags of the field "Tag" of the index, assigned by the volunteers of
the Debtags project; the index files state no terms for them either.

The files were made on this machine for experiments. Look at the terms of the
packages before you pass them on.
"""

_HAN = u"\u3400-\u9fff\uf900-\ufaff\u3000-\u303f\uff00-\uffef"
# Lines were folded: between such characters the break stands for nothing.
_BREAK_IN_HAN = re.compile(u"(?<=[%s]) (?=[%s])" % (_HAN, _HAN))
_NO_LABEL = re.compile(r"(.*::TODO|special::.*)$")

_TARGETS = "\t".join(["$(CREATED_BY)", "$(LANGUAGE)", "$(ORIGIN)",
                      "$(CODENAME)", "$(VERSION)", "$(FILENAME)"])

# name, source: str; md5: hash of the description it has; tags: frozenset.
Package = collections.namedtuple("Package", ["name", "source", "md5", "tags"])


def define_flags():
  """Defines this program's flags; called where the script starts."""
  with command_line.flag_group("Data"):
    flags.DEFINE_string("language", "zh_CN",
                        "Language of the texts: en, zh_CN, de, ja, ...")
    flags.DEFINE_string("output_dir", None, "Folder for the data set.")
    flags.DEFINE_string(
        "sources_dir", None, "Folder where the index files are kept.")
    flags.DEFINE_integer("num_tags", 40, "Most labels.")
    flags.DEFINE_integer("min_texts", 30, "Least texts a label.")


# --- Fetching ---------------------------------------------------------------


def source_paths(sources_dir, language):
  """Paths of the two index files and of what they are: tuple of str."""
  return tuple(os.path.join(sources_dir, name) for name in (
      "Packages-%s" % language, "Translation-%s" % language,
      "sources-%s.json" % language))


def fetch(sources_dir, language):
  """Fetches the index files with apt-get, each whole or not at all.

  Args:
    sources_dir: str, folder for the files; made if it is not there.
    language: str, as in `zh_CN`.

  Raises:
    RuntimeError: there is no apt-get, or no index in that language came.
  """
  if shutil.which("apt-get") is None:
    raise RuntimeError(
        "there is no apt-get on this machine; make the files of --sources_dir "
        "on a Debian machine and bring that folder here.")
  if not os.path.isdir(sources_dir):
    os.makedirs(sources_dir)
  with tempfile.TemporaryDirectory(prefix="apt-", dir=sources_dir) as folder:
    options = _apt_options(os.path.abspath(folder), language)
    said = _run(["apt-get", "-q", "update"] + options)
    targets = [line.split("\t") for line in _run(
        ["apt-get", "indextargets", "--format", _TARGETS] + options)]
    found = [target for target in targets
             if len(target) == 6 and os.path.isfile(target[5])]
    packages = [target for target in found if target[0] == "Packages"]
    translations = [target for target in found
                    if target[:2] == ["Translations", language]]
    if not packages or not translations:
      raise RuntimeError(
          "apt-get has brought no %s in %s; is there a network, and does the "
          "distribution have that language? It said: %s" % (
              "package index" if not packages else "descriptions", language,
              " / ".join(said[-3:]) or "nothing"))
    origin = _origin(translations)
    paths = source_paths(sources_dir, language)
    for path, group in zip(paths, (packages, translations)):
      _join_files([target[5] for target in group], path)
    atomic_files.write_text(paths[2], atomic_files.to_json(
        {"origin": origin, "language": language}))


def _apt_options(folder, language):
  """Options that keep apt-get inside a folder: list of str."""
  for name in ("lists/partial", "cache"):
    os.makedirs(os.path.join(folder, name))
  # The sandbox user of a root's apt-get could not write into the folder.
  settings = [("Dir::State::lists", os.path.join(folder, "lists")),
              ("Dir::Cache", os.path.join(folder, "cache")),
              ("Acquire::Languages", language),
              ("Acquire::GzipIndexes", "false"),
              ("APT::Sandbox::User", "root")]
  return [word for pair in settings for word in ("-o", "%s=%s" % pair)]


def _origin(targets):
  """Names a distribution as in `Debian bookworm 12.15`: str."""
  names = []
  for target in targets:
    # What apt does not know stays as it was asked for.
    name = " ".join(word for word in target[2:5] if "$(" not in word)
    if name not in names:
      names.append(name)
  return ", ".join(names)


def _run(command):
  """Runs apt-get; its lines. How it ended says little: files are looked at."""
  process = subprocess.run(
      command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, env=dict(os.environ, LC_ALL="C"))
  return process.stdout.decode("utf-8", "replace").splitlines()


def _join_files(paths, target):
  with open(target + ".tmp", "wb") as writer:
    for path in paths:
      with open(path, "rb") as reader:
        shutil.copyfileobj(reader, writer)
      writer.write(b"\n\n")
  atomic_files.replace_file(target + ".tmp", target)


# --- Reading ----------------------------------------------------------------


def read_paragraphs(path):
  """Yields the paragraphs of an index file: dict, field -> text.

  Continued lines are kept, each behind a newline, with their first space.
  """
  fields, last = {}, None
  with open(path, encoding="utf-8") as reader:
    for number, line in enumerate(reader, 1):
      line = line.rstrip("\n")
      if not line:
        if fields:
          yield fields
        fields, last = {}, None
      elif line[0] in " \t" and last:
        fields[last] += "\n" + line
      else:
        last, colon, value = line.partition(":")
        if not colon:
          raise ValueError("%s:%d: not a field of a package index; remove the "
                           "file, and it is fetched again." % (path, number))
        fields[last] = value.strip()
  if fields:
    yield fields


def read_packages(path):
  """Reads the packages that have tags: {name: `Package`}, the first of each."""
  packages = {}
  for fields in read_paragraphs(path):
    tags = frozenset(tag for tag in re.split(r"[,\s]+", fields.get("Tag", ""))
                     if tag and not _NO_LABEL.match(tag))
    name = fields.get("Package")
    if name and tags and name not in packages:
      source = fields.get("Source", name).split(" ")[0]
      packages[name] = Package(name, source, fields.get("Description-md5"),
                               tags)
  return packages


def read_descriptions(path, language):
  """Reads a translation file: {(package, md5): description}."""
  key = "Description-" + language
  return {(fields.get("Package"), fields.get("Description-md5")): fields[key]
          for fields in read_paragraphs(path) if key in fields}


def clean_text(description):
  """Makes one line of a description: its title, a full stop, its text."""
  title, _, body = description.partition("\n")
  words = " ".join(line for line in body.split("\n") if line.strip() != ".")
  title, words = [_BREAK_IN_HAN.sub("", " ".join(text.split()))
                  for text in (title, words)]
  if not title or not words:
    return title or words
  stop = u"\u3002" if re.search("[%s]$" % _HAN, title) else ". "
  return title.rstrip(u".\u3002") + stop + words


# --- Examples ---------------------------------------------------------------


def make_examples(packages, descriptions):
  """Joins packages and descriptions, by the rules above.

  Args:
    packages: as `read_packages` returns them.
    descriptions: as `read_descriptions` returns them.

  Returns:
    `(examples, counts)`: list of dict with `id`, `source`, `text` and `tags`
    (set); `OrderedDict` that says how many descriptions were used or not.
  """
  counts = collections.OrderedDict(
      [("used", 0), ("of another version", 0), ("without tags", 0),
       ("without text", 0)])
  merged = {}
  for (name, md5), description in sorted(descriptions.items()):
    text = clean_text(description)
    package = packages.get(name)
    if package is None:
      counts["without tags"] += 1
    elif package.md5 != md5:
      counts["of another version"] += 1
    elif not text:
      counts["without text"] += 1
    else:
      counts["used"] += 1
      # Names come in order, so that the first has the smallest.
      example = merged.setdefault(text, {
          "id": name, "source": package.source, "text": text, "tags": set()})
      example["tags"].update(package.tags)
  return list(merged.values()), counts


def choose_labels(examples, num_tags, min_texts):
  """The labels, the most frequent first (then by name): list of str."""
  frequency = collections.Counter(
      tag for example in examples for tag in example["tags"])
  order = sorted(frequency, key=lambda tag: (-frequency[tag], tag))
  return [tag for tag in order if frequency[tag] >= min_texts][:num_tags]


def hash_share(text):
  """Maps a text to [0, 1), evenly and always the same."""
  digest = hashlib.sha256(text.encode("utf-8")).digest()
  return int.from_bytes(digest[:6], "big") / float(2 ** 48)


def split_examples(examples):
  """Splits by source package, each part in the order of a hash.

  Returns:
    `OrderedDict`: "train", "dev", "test" -> list of examples.
  """
  parts = collections.OrderedDict((name, []) for name in
                                  ("train", "dev", "test"))
  for example in examples:
    share = hash_share(example["source"])
    parts["test" if share < TEST_BELOW else
          "dev" if share < DEV_BELOW else "train"].append(example)
  for part in parts.values():
    part.sort(key=lambda example: (hash_share(example["id"]), example["id"]))
  return parts


def write_data(output_dir, parts, labels, notice):
  """Writes the data set; labels.txt last, so that it is whole where it is."""
  if not os.path.isdir(output_dir):
    os.makedirs(output_dir)
  atomic_files.write_text(os.path.join(output_dir, "NOTICE.txt"), notice)
  for name, part in parts.items():
    lines = [json.dumps(collections.OrderedDict([
        ("id", example["id"]), ("text", example["text"]),
        ("labels", [label for label in labels if label in example["tags"]])]),
                        ensure_ascii=False) + "\n" for example in part]
    atomic_files.write_text(os.path.join(output_dir, name + ".jsonl"),
                            "".join(lines))
  atomic_files.write_text(os.path.join(output_dir, "labels.txt"),
                          "".join(label + "\n" for label in labels))


def prepare(language, sources_dir, output_dir, num_tags=40, min_texts=30):
  """Makes the data set, from kept index files or from new ones.

  Args:
    language: str.
    sources_dir: str.
    output_dir: str.
    num_tags: int.
    min_texts: int.

  Returns:
    list of lines that say what was made.

  Raises:
    ValueError: an index file is broken, or too little is in it.
    RuntimeError: see `fetch`.
  """
  paths = source_paths(sources_dir, language)
  if all(os.path.isfile(path) for path in paths):
    logging.info("Index files: found in %s", sources_dir)
  else:
    logging.info("Index files: fetching them with apt-get ...")
    fetch(sources_dir, language)
  examples, counts = make_examples(read_packages(paths[0]),
                                   read_descriptions(paths[1], language))
  labels = choose_labels(examples, num_tags, min_texts)
  parts = split_examples(examples)
  if not labels or not all(parts.values()):
    raise ValueError(
        "%s: only %d tagged packages have a description in %s, and %d tags "
        "have %d texts; that is too little for a data set." % (
            sources_dir, len(examples), language, len(labels), min_texts))
  write_data(output_dir, parts, labels,
             NOTICE % atomic_files.read_json(paths[2]))
  used = {label: sum(label in example["tags"] for example in examples)
          for label in labels}
  return ["Descriptions: " + ", ".join(
      "%d %s" % (count, what) for what, count in counts.items()),
          "%d labels, from %s (%d texts) to %s (%d)" % (
              len(labels), labels[0], used[labels[0]], labels[-1],
              used[labels[-1]]),
          "%s: %s texts, %.2f labels a text" % (
              output_dir, ", ".join("%d %s" % (len(part), name)
                                    for name, part in parts.items()),
              sum(used.values()) / len(examples))]


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; every flag begins with --." %
                     argv[1])
  for name in ("output_dir", "sources_dir"):
    if not FLAGS[name].value:
      raise ValueError("--%s must be given." % name)
  for name in ("num_tags", "min_texts"):
    if FLAGS[name].value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          name, FLAGS[name].value))
  if not re.match(r"[A-Za-z_@]+$", FLAGS.language):
    raise ValueError("--language=%s is no language; give one such as zh_CN." %
                     FLAGS.language)
  for line in prepare(FLAGS.language, FLAGS.sources_dir, FLAGS.output_dir,
                      FLAGS.num_tags, FLAGS.min_texts):
    print(line)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
