# SPDX-License-Identifier: Apache-2.0
"""README.md and docs/: commands, flags, code and links are right."""

import glob
import importlib
import io
import os
import re

import pytest
import tiny_bert

import processors


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCUMENTS = ["README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md",
             "SECURITY.md"] + sorted(
                 os.path.relpath(path, ROOT)
                 for path in glob.glob(os.path.join(ROOT, "docs", "*.md")))
SCRIPTS = sorted(name[:-len(".py")] for name in os.listdir(ROOT)
                 if name.endswith(".py"))


def read(name):
  with io.open(os.path.join(ROOT, name), encoding="utf-8") as reader:
    return reader.read()


def python_blocks(text):
  return re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)


def test_worked_processor(tmp_path):
  block, = [block for block in python_blocks(read("docs/data.md"))
            if block.startswith("# my_processor.py")]
  path = tmp_path / "my_processor.py"
  path.write_text(block, encoding="utf-8")
  for part, text in (("train", u"billing bug\nI paid twice"),
                     ("dev", u"\nHow do I log in?"),
                     ("test", u"praise\n\u592a\u597d\u4e86")):
    (tmp_path / part).mkdir()
    (tmp_path / part / "1.txt").write_text(text, encoding="utf-8")

  processor = processors.create_processor(
      processor="%s:TicketProcessor" % path)

  assert processors.get_labels(processor, str(tmp_path)) == [
      "billing", "bug", "praise"]
  found = [[(example.guid, example.text_a, example.labels)
            for example in examples(str(tmp_path))]
           for examples in (processor.get_train_examples,
                            processor.get_dev_examples,
                            processor.get_test_examples)]
  assert found == [
      [("1.txt", "I paid twice", ("billing", "bug"))],
      [("1.txt", "How do I log in?", ())],
      [("1.txt", u"\u592a\u597d\u4e86", ("praise",))]]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_code_compiles(name):
  for block in python_blocks(read(name)):
    compile(block, name, "exec")


@pytest.fixture(scope="module")
def known_flags():
  """{script: set of the flags in its --help}, found when they are asked for."""
  found = {}

  def of(script):
    if script not in found:
      _, help_text, _, _ = tiny_bert.call(
          importlib.import_module(script), ["--help"])
      found[script] = set(re.findall(r"^  --(?:\[no\])?(\w+)", help_text, re.M))
      assert found[script], script
    return found[script]
  return of


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_name_flags_that_exist(name, known_flags):
  for script, command in re.findall(
      r"python3? (\w+)\.py((?:[^\n]*\\\n)*[^\n]*)", read(name)):
    if script in SCRIPTS and "--" in command:
      used = set(re.findall(r"--(\w+)", command.partition("|")[0]))
      assert used - known_flags(script) - {"help"} == set(), (script, command)


def test_the_readme_has_the_commands_of_a_user():
  scripts = set(re.findall(r"python (\w+)\.py --", read("README.md")))
  assert {"predict_session", "export_saved_model", "serve_http"} <= scripts


def test_flags_in_the_text_exist(known_flags):
  known = set.union(*[known_flags(script) for script in SCRIPTS if script in (
      "run_multilabel_classifier", "predict_session", "convert_checkpoint",
      "export_saved_model", "explain_labels")])
  beside = {"help", "flagfile", "tf", "slow", "preload", "extra",
            "quick", "kills", "every_index", "input", "output",
            "intra_op_threads"}
  for name in DOCUMENTS:
    if name == "docs/serving.md":
      continue  # tests/serving_docs_test.py
    for flag in re.findall(r"`--(\w+)", read(name)):
      assert flag in known | beside, (name, flag)


def anchors(text):
  return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
          for title in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
  folder = os.path.dirname(os.path.join(ROOT, name))
  text = read(name)
  links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
  for link in filter(None, (part for pair in links for part in pair)):
    if re.match(r"https?:", link):
      continue
    path, _, anchor = link.partition("#")
    target = os.path.join(folder, path) if path else os.path.join(ROOT, name)
    assert os.path.exists(target), link
    if anchor:
      assert anchor in anchors(read(os.path.relpath(target, ROOT))), link


def test_the_readme_is_short():
  assert len(read("README.md").splitlines()) <= 170
