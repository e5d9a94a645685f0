# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/ and pyproject.toml; they need no network."""

import glob
import os
import re
import signal
import subprocess
import sys

import pytest


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))

# pylint: disable=wrong-import-position
import lock
import run

import environment


@pytest.mark.parametrize("version, gpu, system, machine, requirement", [
    ("2.21", False, "Linux", "x86_64", "tensorflow-cpu==2.21.*"),
    ("2.21", False, "Linux", "AMD64", "tensorflow-cpu==2.21.*"),
    ("2.21", False, "Linux", "aarch64", "tensorflow==2.21.*"),
    ("2.21", False, "Darwin", "arm64", "tensorflow==2.21.*"),
    ("2.21", False, "Windows", "AMD64", "tensorflow==2.21.*"),
    ("2.21", True, "Linux", "x86_64", "tensorflow[and-cuda]==2.21.*"),
    ("2.15", False, "Linux", "x86_64", "tensorflow-cpu==2.15.1"),
    ("1.15", False, "Linux", "x86_64", "tensorflow==1.15.5"),
    ("1.15", True, "Linux", "x86_64", "tensorflow-gpu==1.15.5"),
])
def test_tensorflow_requirement(version, gpu, system, machine, requirement):
  assert environment.tensorflow_requirement(
      version, gpu, system, machine) == requirement


def test_requirements_are_those_of_a_toml_reader():
  toml = pytest.importorskip("tomllib")
  with open(os.path.join(ROOT, "pyproject.toml"), "rb") as reader:
    project = toml.load(reader)["project"]
  for extra, lines in project["optional-dependencies"].items():
    expected = [line for line in project["dependencies"] + lines
                if re.split("[<>=!~;[ ]", line)[0] != "tensorflow"]
    found = environment.read_requirements([extra])
    assert found == list(dict.fromkeys(expected)) and len(found) > 4, extra
  assert any(line.startswith("tensorflow-text")
             for line in environment.read_requirements(["export"]))
  with pytest.raises(environment.EnvironmentFailure, match="no extra 'x'"):
    environment.read_requirements(["x"])


def test_no_python_fits_but_the_newest_that_runs_is_taken(
    tmp_path, monkeypatch):
  # As pyenv's shim of a version that is not active.
  shim = tmp_path / "bin" / "python9.7"
  versions = [tmp_path / "pyenv" / "versions" / ("9.7.%d" % patch) / "bin" /
              "python" for patch in (2, 9, 10)]
  for path in [shim] + versions:
    path.parent.mkdir(parents=True)
    path.write_text(u"#!/bin/sh\nexit 127\n")
    path.chmod(0o755)
  monkeypatch.setenv("PATH", str(shim.parent))
  monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
  monkeypatch.setitem(environment.TENSORFLOWS, "9.9", ("==9.9", ("9.7",)))
  with pytest.raises(environment.PythonMissing, match="64-bit Python 9.7 with"):
    environment.find_python("9.9")
  for path in versions:
    path.write_text(u"#!/bin/sh\nexit 0\n")
  assert environment.find_python("9.9") == str(versions[-1])


def test_which_python_runs(tmp_path):
  version = "%d.%d" % sys.version_info[:2]
  assert environment.runs(sys.executable, ["0.9", version])
  assert not environment.runs(sys.executable, ["0.9"])
  assert not environment.runs(str(tmp_path / "none"), [version])


class Calls(object):
  """Stands for what starts processes; keeps pip's arguments."""

  def __init__(self, monkeypatch):
    self.pip, self.fails = [], False
    monkeypatch.setattr(environment, "find_python", lambda version: "python")
    monkeypatch.setattr(environment, "runs", lambda *unused: True)
    monkeypatch.setattr(environment.subprocess, "call", self)

  def __call__(self, command, **unused):
    if command[1:3] == ["-m", "venv"]:
      os.makedirs(command[3])
    if command[1:3] == ["-m", "pip"]:
      self.pip.append([word for word in command[3:] if word != "-qq"])
      return int(self.fails)
    return 0


def test_an_environment_is_made_once_for_its_content(tmp_path, monkeypatch):
  calls = Calls(monkeypatch)
  folder = str(tmp_path / "env")

  def make(content):
    return environment.make(folder, "2.21", [["a"], ["b", "c"]], content)

  calls.fails = True
  with pytest.raises(environment.EnvironmentFailure, match="^pip failed: .*"
                     "BERT_UNLOCKED=1"):
    make(["1"])
  calls.fails, calls.pip[:] = False, []
  python = make(["1"])
  installs = [["install", "--no-compile", "a"],
              ["install", "--no-compile", "b", "c"]]
  assert calls.pip == installs
  assert make(["1"]) == python and calls.pip == installs
  tiny = os.path.join(folder, "left behind")
  os.mkdir(tiny)
  make(["2"])
  assert calls.pip == 2 * installs and not os.path.exists(tiny)


def test_pip_gets_the_list_and_checks_hashes(monkeypatch):
  made = []
  monkeypatch.setattr(environment, "make",
                      lambda *arguments: made.append(arguments))
  pins = os.path.join(ROOT, "requirements", "demo-tf2.21.txt")
  for name in ("BERT_GPU", "BERT_UNLOCKED"):
    monkeypatch.delenv(name, raising=False)
  environment.ensure("demo")
  (folder, _, (command,), content), = made
  assert folder == os.path.join(ROOT, ".venvs", "tf2.21-demo")
  assert command == ["--require-hashes", "--only-binary=:all:", "-r", pins]
  assert any("--hash=sha256:" in text for text in content)
  for extra, version, variable in (
      ("demo", "2.21", "BERT_GPU"), ("demo", "2.21", "BERT_UNLOCKED"),
      ("demo", "2.15", None), ("dev", "2.21", None), ("", "2.21", None)):
    with monkeypatch.context() as patch:
      if variable:
        patch.setenv(variable, "1")
      environment.ensure(extra, version)
    (first,), everything = made[-1][2]
    assert re.match(r"tensorflow(-cpu|\[and-cuda\])?==2\.", first)
    assert everything[0] == first and "numpy>=1.16,<3" in everything
    # Nothing can bring a TensorFlow of another version.
    if first.startswith("tensorflow-cpu"):
      assert first.replace("-cpu", "") in everything
  assert made[1][0].endswith("tf2.21-demo-gpu")


@pytest.mark.skipif(sys.version_info < (3, 9), reason="1.15 has one name")
def test_tensorflow_cpu_counts_as_tensorflow(tmp_path):
  subprocess.check_call([sys.executable, "-m", "venv", "--without-pip",
                         str(tmp_path / "env")])
  python = str(tmp_path / "env" / "bin" / "python")

  def run(code):
    return subprocess.run([python, "-c", code], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)

  assert run(environment._STAND_IN).returncode  # no tensorflow-cpu
  site, = glob.glob(str(tmp_path / "env" / "lib" / "*" / "site-packages"))
  folder = os.path.join(site, "tensorflow_cpu-2.21.0.dist-info")
  os.mkdir(folder)
  with open(os.path.join(folder, "METADATA"), "w") as writer:
    writer.write("Metadata-Version: 2.1\nName: tensorflow-cpu\n"
                 "Version: 2.21.0\n")
  assert not run(environment._STAND_IN).returncode
  shown = run("from importlib.metadata import requires, version; "
              "print(version('tensorflow'), requires('tensorflow'))").stdout
  assert shown.decode() == "2.21.0 ['tensorflow-cpu==2.21.0']\n"


def test_every_requirement_has_a_lower_and_an_upper_bound():
  with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as reader:
    text = reader.read()
  project = text[text.index("\ndependencies = "):
                 text.index("\n[project.scripts]")]
  lines = re.findall(r'"([^"]+)"', project)
  assert len(lines) > 30
  for line in lines:
    versions = line.partition(";")[0]
    assert re.search(r"==\d|>=\d", versions), line
    assert re.search(r"==\d|<\d", versions), line


def test_warnings_of_every_module_of_ours_are_errors():
  with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as reader:
    text = reader.read()
  rules = [rule.replace("\\\\", "\\")
           for rule in re.findall('"error:::(.*)"', text)]
  assert len(rules) == 2
  names = [name[:-len(".py")] for name in os.listdir(ROOT)
           if name.endswith(".py")]
  assert len(names) > 8
  names += ["bert_multilabel", "multilabel.common.atomic_files", "processors",
            "processors.base", "experiments.sweep", "robustness.faults.run"]
  for name in names:
    assert any(re.match(rule, name) for rule in rules), name
  for name in ("tensorflow", "numpy.core", "training_test", "json"):
    assert not any(re.match(rule, name) for rule in rules), name


# What is run with which TensorFlow.


def test_every_version_has_files_that_are_there():
  newest, between, oldest = [run.choose_files(version)
                             for version in environment.TENSORFLOWS]
  assert newest == []
  assert oldest[:2] == between[:2] == ["-m", "not newest"]
  assert len(between) > 8 and set(between) < set(oldest)
  for path in oldest[2:]:
    assert os.path.isfile(os.path.join(ROOT, path)), path


def test_environments_are_made_ahead(tmp_path, monkeypatch):
  script, made = tmp_path / "make.py", tmp_path / "made"
  script.write_text(u"""
import sys, time
with open(%r, "a") as made:
  print(sys.argv[1:], file=made)
time.sleep(60 * ("--tf=1.15" in sys.argv))
""" % str(made))
  monkeypatch.setattr(environment, "__file__", str(script))
  ahead = run.MakingAhead("dev,beam", ["2.15", "1.15"])
  ahead.wait("2.21")  # of which it knows nothing
  ahead.wait("2.15")
  assert made.read_text().splitlines()[0] == "['--tf=2.15', '--extra=dev,beam']"
  while "--tf=1.15" not in made.read_text():
    pass
  ahead.stop()
  ahead.wait("1.15")
  assert ahead._process.returncode == -signal.SIGTERM


# The list of pinned packages.


def read_pins():
  """{(name, version): (marker, number of hashes)} of the demo's list."""
  with open(os.path.join(ROOT, "requirements", "demo-tf2.21.txt"),
            encoding="utf-8") as reader:
    text = reader.read().replace("\\\n", " ")
  pins = {}
  for line in text.splitlines():
    if not line.startswith("#"):
      pin = re.match(r"([a-z0-9-]+)==([^\s;]+)(?: ; ([^#]*?))?"
                     r"((?: +--hash=sha256:[0-9a-f]{64})+)$", line.rstrip())
      assert pin, line[:80]
      pins[pin.group(1, 2)] = (pin.group(3), pin.group(4).count("--hash"))
  return pins


def test_the_demos_list_pins_all_that_the_project_asks_for():
  packaging = pytest.importorskip("packaging.requirements")
  markers = pytest.importorskip("packaging.markers")
  pins = read_pins()
  assert len(pins) > 40
  with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as reader:
    text = reader.read()
  lines = re.findall(r'^  "([^"]*)",', re.search(
      r"\ndependencies = \[(.*?)\n\]", text, re.S).group(1), re.M)
  lines += re.findall('"([^"]*)"', re.search(
      r"\ndemo = \[(.*?)\]", text, re.S).group(1))
  assert len(lines) >= 7
  for minor in ("10", "11", "12", "13"):
    for machine in ("x86_64", "aarch64"):
      where = {"python_version": "3." + minor, "sys_platform": "linux",
               "python_full_version": "3.%s.1" % minor,
               "platform_machine": machine}
      chosen = {name: version for (name, version), (marker, _) in pins.items()
                if not marker or markers.Marker(marker).evaluate(where)}
      chosen.setdefault("tensorflow", chosen.get("tensorflow-cpu"))
      assert ("tensorflow-cpu" in chosen) == (machine == "x86_64")
      for requirement in map(packaging.Requirement, lines):
        if not requirement.marker or requirement.marker.evaluate(where):
          assert requirement.specifier.contains(chosen[requirement.name]), (
              requirement.name, minor)


def test_the_demos_list_names_no_index_and_fits_the_project():
  with open(os.path.join(ROOT, "requirements", "demo-tf2.21.txt"),
            encoding="utf-8") as reader:
    text = reader.read()
  assert "://" not in text and "--index" not in text and "@" not in text
  wanted = environment.read_requirements(["demo"])
  assert lock.header(wanted) in text.splitlines(), (
      "pyproject.toml has changed: run tools/lock.py")
  assert lock.header(wanted + ["other"]) not in text
