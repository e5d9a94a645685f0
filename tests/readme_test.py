# SPDX-License-Identifier: Apache-2.0
"""The README's examples work as they stand there."""

import importlib
import io
import os
import re

import pytest
import tiny_bert

import processors


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def readme():
  with io.open(os.path.join(ROOT, "README.md"), encoding="utf-8") as reader:
    return reader.read()


def code_block(first_words):
  blocks = re.findall(r"```python\n(.*?)```", readme(), re.S)
  found = [block for block in blocks if block.startswith(first_words)]
  assert len(found) == 1
  return found[0]


def test_worked_processor(tmp_path):
  path = tmp_path / "my_processor.py"
  path.write_text(code_block("# my_processor.py"), encoding="utf-8")
  for part, text in (("train", u"billing bug\nI paid twice"),
                     ("dev", u"\nHow do I log in?"),
                     ("test", u"praise\n\u592a\u597d\u4e86")):
    (tmp_path / part).mkdir()
    (tmp_path / part / "1.txt").write_text(text, encoding="utf-8")

  processor = processors.create_processor(
      processor="%s:TicketProcessor" % path)

  assert processors.get_labels(processor, str(tmp_path)) == [
      "billing", "bug", "praise"]
  read = [[(example.guid, example.text_a, example.labels)
           for example in examples(str(tmp_path))]
          for examples in (processor.get_train_examples,
                           processor.get_dev_examples,
                           processor.get_test_examples)]
  assert read == [
      [("1.txt", "I paid twice", ("billing", "bug"))],
      [("1.txt", "How do I log in?", ())],
      [("1.txt", u"\u592a\u597d\u4e86", ("praise",))]]


def test_predictor_example_compiles():
  compile(code_block("from predict_session import"), "README.md", "exec")


@pytest.mark.parametrize("script", [
    "run_multilabel_classifier.py", "predict_session.py",
    "convert_checkpoint.py", "export_saved_model.py"])
def test_commands_name_flags_that_exist(script):
  """Every --flag in a command of the README is in that script's --help."""
  commands = re.findall(
      r"python %s((?:[^\n]*\\\n)*[^\n]*)" % re.escape(script), readme())
  assert commands
  used = set(re.findall(r"--(\w+)", " ".join(commands)))
  _, help_text, _, _ = tiny_bert.call(
      importlib.import_module(script[:-len(".py")]), ["--help"])
  known = set(re.findall(r"^  --(?:\[no\])?(\w+)", help_text, re.M))
  assert used - known - {"help"} == set()


def test_flags_of_the_table_exist():
  table = re.search(r"## Flags\n(.*?)\n## ", readme(), re.S).group(1)
  used = set(re.findall(r"`--(\w+)`", table)) - {"help", "flagfile"}
  with io.open(os.path.join(ROOT, "run_multilabel_classifier.py"),
               encoding="utf-8") as reader:
    source = reader.read()
  assert used
  for name in used:
    assert '"%s"' % name in source or name == "debug"
