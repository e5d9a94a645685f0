# SPDX-License-Identifier: Apache-2.0
"""The installed library: one package, found whatever else stands around."""

import csv
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile

import pytest
import tiny_bert


pytest.importorskip("setuptools", "64")

ROOT = tiny_bert.ROOT
sys.path.append(os.path.join(ROOT, "tools"))

import build_package  # noqa: E402  pylint: disable=wrong-import-position

# Names of our modules, and of some of the clone's folders, in the user's own.
DECOYS = ("modeling", "tokenization", "optimization", "training", "evaluation",
          "predict_session", "multilabel", "serving", "scale")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
  """The Python of an environment that has the wheel, and what it requires."""
  folder = tmp_path_factory.mktemp("wheel")
  subprocess.check_call(
      [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps",
       "--no-build-isolation", "-w", str(folder), ROOT],
      stdout=subprocess.DEVNULL)
  wheel, = [name for name in os.listdir(str(folder)) if name.endswith(".whl")]
  environment = os.path.join(str(folder), "environment")
  subprocess.check_call(
      [sys.executable, "-m", "venv", "--without-pip", environment])
  site = sysconfig.get_path(
      "purelib", vars={"base": environment, "platbase": environment})
  with zipfile.ZipFile(os.path.join(str(folder), wheel)) as archive:
    archive.extractall(site)
  # What it requires comes from this environment; ours is not among it.
  tiny_bert.write_text(os.path.join(site, "required.pth"),
                       sysconfig.get_path("purelib") + u"\n")
  return os.path.join(environment, "bin", "python")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
  """A folder of the user's, with files named as ours are."""
  folder = tmp_path_factory.mktemp("elsewhere")
  for name in DECOYS:
    (folder / (name + ".py")).write_text(
        "raise AssertionError('%s of the user was imported')\n" % name)
  return folder


def run(python, folder, *arguments):
  """Runs the command from a folder: its standard output."""
  settings = {name: value for name, value in os.environ.items()
              if name != "PYTHONPATH"}
  done = subprocess.run(
      [python, "-m", "bert_multilabel"] + list(arguments), cwd=str(folder),
      env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
  assert done.returncode == 0, done.stderr.decode("utf-8")
  return done.stdout.decode("utf-8")


@pytest.fixture(scope="module")
def trained(python, elsewhere, bert, tmp_path_factory):
  """A directory that the installed command trained."""
  data = tiny_bert.make_data(tmp_path_factory.mktemp("data"))
  run(python, elsewhere, "train", *tiny_bert.arguments(
      bert, data, "out", num_train_epochs=12, do_eval=True))
  return elsewhere / "out"


def test_it_trains_predicts_and_exports_beside_decoys(python, elsewhere,
                                                      trained):
  (elsewhere / "x.txt").write_text("the apple\n")
  run(python, elsewhere, "predict", "--model_dir=out", "--input_file=x.txt",
      "--output_file=x.csv")
  with open(str(elsewhere / "x.csv"), newline="") as reader:
    rows = list(csv.DictReader(reader))
  assert [row["text"] for row in rows] == ["the apple"]
  assert rows[0]["labels"] == "fruit"
  run(python, elsewhere, "export", "--model_dir=out", "--export_dir=exports")
  version, = [name for name in os.listdir(str(elsewhere / "exports"))
              if name.isdigit()]
  assert (elsewhere / "exports" / version / "saved_model.pb").exists()
  settings = json.loads((trained / "model_settings.json").read_text())
  assert settings["flags"]["num_train_epochs"] == 12


@pytest.mark.parametrize("name", ["processors", "bert_multilabel.processors"])
def test_a_processor_is_of_the_same_class_by_either_name(
    python, elsewhere, name):
  (elsewhere / "mine.py").write_text(
      "from %s import DataProcessor\n"
      "from %s.base import InputExample\n"
      "class Mine(DataProcessor):\n"
      "  def get_labels(self, data_dir=None):\n"
      "    return ['a']\n" % (name, name))
  code = (
      "import sys\n"
      "sys.path.insert(0, %r)\n"
      "%s\n"
      "made = processors.create_processor(None, 'mine.py:Mine')\n"
      "assert isinstance(made, processors.DataProcessor), type(made).__mro__\n")
  for interpreter, path, importing in (
      (python, "", "from bert_multilabel import processors"),
      (sys.executable, ROOT, "import processors")):
    subprocess.check_call([interpreter, "-c", code % (path, importing)],
                          cwd=str(elsewhere))


def test_one_package_is_installed(python):
  site = os.path.join(os.path.dirname(os.path.dirname(python)), "lib")
  found, = [folder for folder, names, _ in os.walk(site)
            if "bert_multilabel" in names]
  assert sorted(name for name in os.listdir(found)
                if not name.endswith((".dist-info", ".pth"))) == [
                    "bert_multilabel"]
  for folder, _, names in os.walk(os.path.join(found, "bert_multilabel")):
    for name in names:
      assert not re.search("test|bench|fuzz|robustness",
                           os.path.join(folder, name)[len(found):]) or (
                               name == "run_export.py"), name


def test_the_package_says_that_it_has_type_hints(python):
  site = os.path.join(os.path.dirname(os.path.dirname(python)), "lib")
  assert [folder for folder, _, names in os.walk(site)
          if folder.endswith("bert_multilabel") and "py.typed" in names]


def test_help_lists_the_commands(python, elsewhere):
  assert re.findall(r"^  (\w+) ", run(python, elsewhere, "--help"), re.M) == [
      "train", "predict", "serve", "export", "convert", "explain"]


@pytest.mark.parametrize("line, expected", [
    ("import modeling", "from bert_multilabel import modeling"),
    ("import modeling as m", "from bert_multilabel import modeling as m"),
    ("import multilabel.head as h", "from bert_multilabel.multilabel import "
     "head as h"),
    ("from multilabel.head import x as y",
     "from bert_multilabel.multilabel.head import x as y"),
    ("  from processors import (a,\n                          b)",
     "  from bert_multilabel.processors import (a,\n"
     "                          b)"),
    ("import json, os", "import json, os"),
    ("from multilabels import x", "from multilabels import x"),
    ("x = 'multilabel'", "x = 'multilabel'"),
])
def test_imports_are_rewritten(line, expected):
  names = {"modeling", "multilabel", "processors"}
  if line.startswith(" "):
    line, expected = "if 1:\n" + line, "if 1:\n" + expected
  assert build_package.rewrite(line, "x.py", names) == expected


@pytest.mark.parametrize("line", [
    "import multilabel.head", "import modeling, json", "x = 1; import modeling",
    "x = 'multilabel.export.run_export'",
    "x = 'import json\\nimport modeling'", "from multilabel \\\n import head"])
def test_what_cannot_be_rewritten_fails_the_build(line):
  with pytest.raises(build_package.BuildError, match=r"^x\.py:\d"):
    build_package.rewrite(line, "x.py", {"modeling", "multilabel"})
