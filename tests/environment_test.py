# SPDX-License-Identifier: Apache-2.0
"""Tests of the parts of tools/environment.py that need no network."""

import glob
import importlib.util
import os
import re
import stat
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SPEC = importlib.util.spec_from_file_location(
    "environment", os.path.join(ROOT, "tools", "environment.py"))
environment = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(environment)


@pytest.mark.parametrize("gpu, system, machine, flavour", [
    (False, "Linux", "x86_64", "cpu"),
    (False, "Linux", "AMD64", "cpu"),
    (False, "Linux", "aarch64", "full"),
    (False, "Darwin", "arm64", "full"),
    (False, "Windows", "AMD64", "full"),
    (True, "Linux", "x86_64", "gpu"),
])
def test_tensorflow_flavour(gpu, system, machine, flavour):
  assert environment.tensorflow_flavour(gpu, system, machine) == flavour


@pytest.mark.parametrize("version, flavour, requirement", [
    ("2.21", "cpu", "tensorflow-cpu==2.21.*"),
    ("2.21", "full", "tensorflow==2.21.*"),
    ("2.21", "gpu", "tensorflow[and-cuda]==2.21.*"),
    ("2.15", "cpu", "tensorflow-cpu==2.15.1"),
    ("1.15", "cpu", "tensorflow==1.15.5"),
    ("1.15", "full", "tensorflow==1.15.5"),
    ("1.15", "gpu", "tensorflow-gpu==1.15.5"),
])
def test_tensorflow_requirement(version, flavour, requirement):
  assert environment.tensorflow_requirement(version, flavour) == requirement


def test_replace_tensorflow_leaves_the_other_requirements():
  assert environment.replace_tensorflow(
      ["tensorflow<2.22,>=2.15.1", "numpy<3,>=1.16", "tensorflow-text>=2",
       "numpy<3,>=1.16", "six"], "tensorflow-cpu==2.21.*") == [
           "tensorflow-cpu==2.21.*", "numpy<3,>=1.16", "tensorflow-text>=2",
           "six"]


def test_fingerprint_depends_on_every_requirement():
  # From: printf 'a\nb' | sha256sum.
  assert environment.fingerprint(["a", "b"]) == (
      "7e18f737311b2dc3b2f269dd78396b03"
      "51f14fb66efa879f768cb23181883c78")
  assert environment.fingerprint(["a"]) != environment.fingerprint(["a", "c"])


def test_pip_notices_are_told_from_failures():
  for line in (
      "WARNING: Location 'file:///x' is ignored: it is neither a file nor a",
      "[notice] A new release of pip is available: 23.2.1 -> 26.3",
      "WARNING: You are using pip version 22.0.4; however, version 24.0 is",
      "WARNING: Running pip as the 'root' user can result in broken",
      "  WARNING: The script pyrsa-sign is installed in '/x' which is not",
      "DEPRECATION: x is being installed using the legacy method"):
    assert environment.is_pip_notice(line), line
  for line in (
      "ERROR: No matching distribution found for tensorflow-cpu==9",
      "WARNING: Retrying (Retry(total=4, ...)) after connection broken by",
      "Collecting numpy"):
    assert not environment.is_pip_notice(line), line


@pytest.mark.parametrize("line, said", [
    ("  Downloading grpcio-1.85.1-cp311-cp311-manylinux.whl (7.4 MB)\n",
     "downloading grpcio (7.4 MB)"),
    ("  Using cached tensorflow_cpu-2.21.0-cp311.whl (273.8 MB)\n",
     "using cached tensorflow_cpu (273.8 MB)"),
    ("Processing /somewhere/six-1.17.0-py2.py3-none-any.whl (from x)\n",
     "processing six"),
    ("Installing collected packages: six, numpy\n", "unpacking"),
    ("Collecting numpy<3\n", None),
])
def test_describe_pip_line(line, said):
  assert environment.describe_pip_line(line) == said


def test_newest_first_compares_numbers():
  paths = ["/v/3.11.9/bin/python", "/v/3.11.10/bin/python",
           "/v/3.11.2/bin/python"]
  assert environment.newest_first(paths) == [
      "/v/3.11.10/bin/python", "/v/3.11.9/bin/python", "/v/3.11.2/bin/python"]


def test_probe_python_knows_itself_and_refuses_others(tmp_path):
  facts = environment.probe_python(sys.executable)
  assert facts[:3] == sys.version_info[:2] + (sys.maxsize > 2 ** 32,)
  assert environment.probe_python(str(tmp_path / "none")) is None
  assert environment.probe_python(str(tmp_path)) is None


def make_script(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def no_other_python(tmp_path, monkeypatch):
  """Only what a test puts into tmp_path/bin and tmp_path/pyenv is there."""
  monkeypatch.setenv("PATH", str(tmp_path / "bin"))
  monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
  monkeypatch.setattr(environment, "TENSORFLOWS", {
      "9.9": environment.TensorFlow("==9.9", ((9, 8), (9, 7)), 1)})


needs_sh = pytest.mark.skipif(not os.path.exists("/bin/sh"),
                              reason="the stand-ins are shell scripts")


@needs_sh
def test_find_python_passes_over_what_does_not_run(tmp_path, no_other_python):
  # As pyenv's shim of a version that is not active, and a 32-bit Python.
  make_script(tmp_path / "bin" / "python9.8", "exit 127\n")
  make_script(tmp_path / "bin" / "python9.7", "echo '[9, 7, false, true]'\n")
  with pytest.raises(environment.PythonMissing,
                     match=r"needs a 64-bit Python 9\.7 or 9\.8, and neither"):
    environment.find_python("9.9")
  for patch in (9, 10):
    make_script(tmp_path / "pyenv" / "versions" / ("9.7.%d" % patch) / "bin"
                / "python", "echo '[9, 7, true, true]'\n")
  path, version = environment.find_python("9.9")
  assert version == (9, 7)
  assert path == str(tmp_path / "pyenv" / "versions" / "9.7.10" / "bin"
                     / "python")


@needs_sh
def test_find_python_prefers_one_that_can_make_environments(
    tmp_path, no_other_python):
  make_script(tmp_path / "bin" / "python9.8", "echo '[9, 8, true, false]'\n")
  with pytest.raises(environment.PythonMissing,
                     match="apt-get install python9.8-venv"):
    environment.find_python("9.9")
  make_script(tmp_path / "bin" / "python9.7", "echo '[9, 7, true, true]'\n")
  assert environment.find_python("9.9") == (
      str(tmp_path / "bin" / "python9.7"), (9, 7))


def test_read_requirements_applies_markers_and_extras(tmp_path):
  pyproject = tmp_path / "pyproject.toml"
  pyproject.write_text(
      '[project]\nname = "x"\ndependencies = [\n'
      '  "old<1; python_version < \'3\'", "new[more]>=1.0",\n'
      '  "kept<2; python_version >= \'3\'"]\n'
      '[project.optional-dependencies]\ndemo = ["extra"]\nother = ["not"]\n',
      encoding="utf-8")
  assert environment.read_requirements(
      sys.executable, str(pyproject), ["demo"]) == [
          "new[more]>=1.0", "kept<2", "extra"]
  with pytest.raises(environment.EnvironmentFailure,
                     match="no extra 'nothing'"):
    environment.read_requirements(sys.executable, str(pyproject), ["nothing"])


def test_the_extras_of_the_project_can_be_read():
  pyproject = os.path.join(ROOT, "pyproject.toml")
  for extra in ("demo", "dev", "bench", "tensorboard"):
    lines = environment.read_requirements(sys.executable, pyproject, [extra])
    names = [re.match("[a-z0-9-]+", line).group(0) for line in lines]
    assert names.count("tensorflow") == 1, extra
    assert {"numpy", "absl-py", "six"} <= set(names), extra
  demo = environment.read_requirements(sys.executable, pyproject, ["demo"])
  assert any(line.startswith("scikit-learn") for line in demo)


def test_every_requirement_has_a_lower_and_an_upper_bound():
  with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as reader:
    text = reader.read()
  project = text[text.index("\ndependencies = "):text.index("\n[tool.")]
  lines = re.findall(r'"([^"]+)"', project)
  assert len(lines) > 30
  for line in lines:
    versions = line.partition(";")[0]
    assert re.search(r"==\d|>=\d", versions), line
    assert re.search(r"==\d|<\d", versions), line


def test_every_module_of_the_top_level_is_packaged():
  with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as reader:
    listed = re.search(r"py-modules = \[(.*?)\]", reader.read(), re.S).group(1)
  modules = {os.path.splitext(os.path.basename(path))[0]
             for path in glob.glob(os.path.join(ROOT, "*.py"))}
  assert modules - set(re.findall(r'"(\w+)"', listed)) == set()


def test_warnings_of_every_module_of_ours_are_errors():
  with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as reader:
    text = reader.read()
  rules = [rule.replace("\\\\", "\\")
           for rule in re.findall('"error:::(.*)"', text)]
  assert len(rules) == 2
  names = re.findall(r'"([\w.]+)"', re.search(
      r"\npackages = \[(.*?)\]", text, re.S).group(1))
  names += re.findall(r'"(\w+)"', re.search(
      r"py-modules = \[(.*?)\]", text, re.S).group(1))
  assert len(names) > 30
  for name in names:
    assert any(re.match(rule, name) for rule in rules), name
  for name in ("tensorflow", "numpy.core", "training_test", "json"):
    assert not any(re.match(rule, name) for rule in rules), name


def test_stamp_is_whole_or_not_there(tmp_path, monkeypatch):
  stamp = str(tmp_path / "stamp")
  assert environment.read_stamp(stamp) is None
  environment.write_stamp(stamp, "one")
  assert environment.read_stamp(stamp) == "one"

  def fail(*unused):
    raise OSError("no room")

  monkeypatch.setattr(environment.os, "replace", fail)
  with pytest.raises(OSError):
    environment.write_stamp(stamp, "two")
  assert environment.read_stamp(stamp) == "one"


def test_ready_python_wants_stamp_interpreter_and_same_requirements(tmp_path):
  pyproject = tmp_path / "pyproject.toml"
  pyproject.write_text('[project]\nname = "x"\n'
                       'dependencies = ["tensorflow", "six"]\n',
                       encoding="utf-8")

  def ready():
    return environment.ready_python(str(tmp_path / "env"), str(pyproject), [],
                                    "tensorflow-cpu==2.21.*")

  assert ready() is None
  python = environment.environment_python(str(tmp_path / "env"))
  os.makedirs(os.path.dirname(python))
  os.symlink(sys.executable, python)
  assert ready() is None  # an install that was interrupted
  environment.write_stamp(
      str(tmp_path / "env" / "installed.sha256"),
      environment.fingerprint(["tensorflow-cpu==2.21.*", "six"]))
  assert ready() == python
  pyproject.write_text('[project]\nname = "x"\n'
                       'dependencies = ["tensorflow", "six", "numpy"]\n',
                       encoding="utf-8")
  assert ready() is None


def test_locked_waits_for_the_holder(tmp_path, capsys):
  fcntl = pytest.importorskip("fcntl")
  path = str(tmp_path / "folder" / "x.lock")
  with environment.locked(path, "waiting"):
    with open(path, "a") as other:
      with pytest.raises(OSError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
  with environment.locked(path, "waiting"):
    pass
  assert "waiting" not in capsys.readouterr().err


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
  path = environment.lock_path(["demo"], "2.21", "cpu")
  wanted = environment.read_requirements(
      sys.executable, os.path.join(ROOT, "pyproject.toml"), ["demo"])
  if sys.version_info >= (3, 9):  # the list is for these
    text = environment.read_lock(path, wanted)
    assert "://" not in text and "--index" not in text and "@" not in text
  with pytest.raises(environment.EnvironmentFailure,
                     match=r"make it anew with tools/lock\.py"):
    environment.read_lock(path, wanted + ["other"])


def test_where_there_is_no_list():
  assert environment.lock_path(["demo"], "2.21", "full")
  for extras, tf_version, flavour in (
      ([], "2.21", "cpu"), (["demo"], "2.21", "gpu"), (["demo"], "2.15", "cpu"),
      (["dev"], "2.21", "cpu")):
    assert environment.lock_path(extras, tf_version, flavour) is None


def test_the_header_of_a_list_does_not_depend_on_the_pip():
  header = environment.lock_header(["numpy<3,>=1.16", "six[a]~=1.12"])
  assert header == environment.lock_header(["six[a] ~=1.12", "numpy>=1.16, <3"])
  assert header != environment.lock_header(["numpy<3,>=1.17", "six[a]~=1.12"])


class Install(object):
  """`environment._install` up to pip, whose arguments it keeps."""

  def __init__(self, monkeypatch, folder, fails=False):
    self.commands = []
    self.fails = fails
    self.folder = folder
    os.makedirs(folder)
    for name, value in (
        ("find_python", lambda version: (sys.executable, (3, 11))),
        ("make_venv", lambda *unused: None),
        ("upgrade_old_pip", lambda *unused: None),
        ("environment_python", lambda unused: sys.executable),
        ("read_requirements", lambda *unused: ["tensorflow", "six"]),
        ("run_pip", self.run_pip)):
      monkeypatch.setattr(environment, name, value)

  def run_pip(self, python, arguments, log_path, lock):
    self.commands.append(arguments)
    if self.fails:
      raise environment.EnvironmentFailure("pip failed.")

  def __call__(self, lock_file):
    environment._install(  # pylint: disable=protected-access
        self.folder, "pyproject.toml", ["demo"], "2.21", "cpu", lock_file, None)
    return self.commands[-1]


def write_list(path):
  path.write_text(environment.lock_header(["tensorflow", "six"]) + "\nsix==1\n",
                  encoding="utf-8")
  return str(path)


def test_pip_gets_the_list_and_checks_hashes(tmp_path, monkeypatch):
  install = Install(monkeypatch, str(tmp_path / "env"))
  pins = write_list(tmp_path / "demo.txt")
  command = install(pins)
  assert command[-2:] == ["-r", pins]
  assert {"--require-hashes", "--only-binary=:all:"} <= set(command)
  assert "six" not in command
  pinned = "tensorflow-cpu==2.21.*"

  def ready(lock_file):
    return environment.ready_python(install.folder, "", ["demo"], pinned,
                                    lock_file)

  # Neither another list nor none is what stands there now.
  assert ready(pins) == sys.executable and ready(None) is None
  with open(pins, "a") as writer:
    writer.write("numpy==2\n")
  assert ready(pins) is None
  assert install(None)[-2:] == [pinned, "six"]
  assert "--require-hashes" not in install.commands[-1]
  assert ready(None) == sys.executable and ready(pins) is None


def test_a_list_that_the_index_does_not_have_says_the_way_out(
    tmp_path, monkeypatch):
  install = Install(monkeypatch, str(tmp_path / "env"), fails=True)
  pins = write_list(tmp_path / "demo.txt")
  with pytest.raises(environment.EnvironmentFailure, match="BERT_UNLOCKED=1"):
    install(pins)
  with pytest.raises(environment.EnvironmentFailure, match=r"^pip failed\.$"):
    install(None)
