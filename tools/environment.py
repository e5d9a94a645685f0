# SPDX-License-Identifier: Apache-2.0
"""Makes a virtual environment with TensorFlow inside the repository.

  python3 tools/environment.py --tf=2.21 --extra=demo

finds a Python with wheels for that TensorFlow, creates `.venvs/tf2.21-demo`
with it, installs the requirements of `pyproject.toml` with the extra, and
prints the path of the environment's Python. The project itself is not
installed: its scripts run from the repository root. A finished environment is
reused, without the network; an unfinished one is recreated.

Where `requirements/` has a list for the extra and the TensorFlow, exactly that
is installed, each file checked by its sha256; BERT_UNLOCKED=1 uses what
`pyproject.toml` allows instead. BERT_GPU=1 installs TensorFlow with its GPU
libraries. Needs only Python 3.7 or newer.
"""

import argparse
import glob
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Version part of the requirement, and Pythons with wheels, in order of
# preference.
TENSORFLOWS = {
    "2.21": ("==2.21.*", ("3.11", "3.12", "3.10", "3.13")),
    "2.15": ("==2.15.1", ("3.11", "3.10", "3.9")),
    "1.15": ("==1.15.5", ("3.7",))}
DEFAULT_TF = "2.21"

_PROBE = ("import ensurepip, sys, venv; sys.exit(sys.maxsize < 2**32 or "
          "'%d.%d' % sys.version_info[:2] not in sys.argv[1:])")

# Packages ask for `tensorflow`; pip would put it over the files of
# tensorflow-cpu, which is the same under another name.
_STAND_IN = """
import importlib.metadata, os, sysconfig
version = importlib.metadata.version("tensorflow-cpu")
name = "tensorflow-%s.dist-info" % version
folder = os.path.join(sysconfig.get_path("purelib"), name)
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "METADATA"), "w") as writer:
  writer.write("Metadata-Version: 2.1\\nName: tensorflow\\nVersion: %s\\n"
               "Requires-Dist: tensorflow-cpu==%s\\n" % (version, version))
with open(os.path.join(folder, "RECORD"), "w") as writer:
  writer.write("%s/METADATA,,\\n%s/RECORD,,\\n" % (name, name))
"""


class EnvironmentFailure(RuntimeError):
  """The environment cannot be made; the message is one sentence."""


class PythonMissing(EnvironmentFailure):
  """No Python on this machine fits the asked TensorFlow."""


class Terminated(KeyboardInterrupt):
  """SIGTERM came; it ends the process as Ctrl-C does, its children first."""


def say(text):
  """Prints to stderr, since stdout carries the result of the script."""
  sys.stderr.write(text + "\n")
  sys.stderr.flush()


def relative(path):
  """Shows a path as seen from the repository root, where it is inside."""
  inside = os.path.relpath(path, ROOT)
  return path if inside.startswith(os.pardir) else inside


def runs(python, versions):
  """Whether a path is a 64-bit Python of `versions` that makes environments."""
  try:
    return not subprocess.call(
        [python, "-c", _PROBE] + list(versions), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  except OSError:
    return False


def find_python(tf_version):
  """The path of a Python that has wheels: the running one, PATH's, pyenv's."""
  versions = TENSORFLOWS[tf_version][1]
  # Inside an environment, the Python that made it.
  found = [getattr(sys, "_base_executable", None) or sys.executable]
  pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
  for version in versions:
    found.append(shutil.which("python" + version))
    found += sorted(  # 3.11.10 before 3.11.9
        glob.glob(os.path.join(pyenv, "versions", version + ".*", "bin",
                               "python")), reverse=True,
        key=lambda path: [int(n) for n in re.findall(r"\d+", path)])
  for path in found:
    if path and runs(path, versions):
      return path
  raise PythonMissing(
      "TensorFlow %s needs a 64-bit Python %s with the venv module (on Debian "
      "and Ubuntu: apt-get install python%s-venv), but neither PATH nor pyenv "
      "has one." % (tf_version, " or ".join(versions), versions[0]))


def tensorflow_requirement(tf_version, gpu=False, system=None, machine=None):
  """Returns the pip requirement, as in "tensorflow-cpu==2.21.*"."""
  name = "tensorflow"
  if gpu:
    name += "-gpu" if tf_version == "1.15" else "[and-cuda]"
  # There is no tensorflow-cpu 1.15.5, and tensorflow 1.15.5 is CPU only.
  elif (tf_version != "1.15" and (system or platform.system()) == "Linux" and
        (machine or platform.machine()).lower() in ("x86_64", "amd64")):
    name += "-cpu"
  return name + TENSORFLOWS[tf_version][0]


def read_requirements(extras):
  """What `pyproject.toml` asks for beside TensorFlow: list of str, for pip."""
  with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as reader:
    # Python 3.7 to 3.10 have no TOML reader; the lists are plain.
    text = re.sub(r"^\s*#.*$", "", reader.read(), flags=re.MULTILINE)
  lists = dict(re.findall(r"^([\w-]+) = \[(.*?)\]$", text, re.DOTALL | re.M))
  lines = []
  for name in ["dependencies"] + list(extras):
    if name not in lists:
      raise EnvironmentFailure("pyproject.toml has no extra %r." % name)
    lines += re.findall('"([^"]+)"', lists[name])
  return [line for line in dict.fromkeys(lines)
          if not re.match(r"tensorflow\b(?!-)", line)]


def run_pip(python, *arguments):
  """Runs pip; its output goes to stderr, on a terminal with its progress."""
  status = subprocess.call(
      [python, "-m", "pip"] + list(arguments) +
      ([] if sys.stderr.isatty() else ["-qq"]), stdin=subprocess.DEVNULL,
      stdout=sys.stderr, env=dict(os.environ, PIP_USER="0", PIP_NO_INPUT="1",
                                  PIP_DISABLE_PIP_VERSION_CHECK="1"))
  if status:
    raise EnvironmentFailure(
        "pip failed: see the lines above, check the connection to the package "
        "index and the free disk space, and try again (with BERT_UNLOCKED=1 if "
        "the index lacks the pinned versions).")


def make(folder, tf_version, commands, content):
  """Creates an environment, or reuses it; returns the path of its Python.

  Args:
    folder: str, replaced unless it was finished with the same `content`.
    tf_version: key of `TENSORFLOWS`, whose Pythons fit.
    commands: list of lists of arguments for pip install.
    content: list of str, all that they depend on.
  """
  python = os.path.join(folder, *(("Scripts", "python.exe") if os.name == "nt"
                                  else ("bin", "python")))
  stamp = os.path.join(folder, "installed.sha256")
  digest = hashlib.sha256("\n".join(content).encode("utf-8")).hexdigest()
  if os.path.exists(stamp) and runs(python, TENSORFLOWS[tf_version][1]):
    with open(stamp) as reader:
      if reader.read() == digest:
        return python
  base = find_python(tf_version)
  say("Creating the environment %s with %s ..." % (relative(folder), base))
  shutil.rmtree(folder, ignore_errors=True)
  if subprocess.call([base, "-m", "venv", folder], stdout=sys.stderr):
    raise EnvironmentFailure("%s could not create the virtual environment %s; "
                             "see above." % (base, relative(folder)))
  for arguments in commands:
    # Compiling all of TensorFlow ahead takes longer than what is imported.
    run_pip(python, "install", "--no-compile", *arguments)
    subprocess.call([python, "-c", _STAND_IN], stderr=subprocess.DEVNULL)
  # Compile now what will be imported: with PYTHONDONTWRITEBYTECODE, as in many
  # containers, each process would do it again, for ten seconds and more.
  settings = dict(os.environ)
  settings.pop("PYTHONDONTWRITEBYTECODE", None)
  for name in ("tensorflow.compat.v1", "sklearn.linear_model",
               "matplotlib.pyplot", "pytest", "hypothesis"):
    subprocess.call([python, "-c", "import " + name], env=settings,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  with open(stamp, "w") as writer:
    writer.write(digest)
  return python


def ensure(extra, tf_version=DEFAULT_TF):
  """`make` for one TensorFlow and an extra, or several with commas."""
  extras = extra.split(",") if extra else []
  gpu = os.environ.get("BERT_GPU") == "1"
  folder = os.path.join(ROOT, ".venvs", "-".join(
      ["tf" + tf_version] + extras + ["gpu"] * gpu))
  pinned = tensorflow_requirement(tf_version, gpu)
  lock = os.path.join(ROOT, "requirements", "%s-tf%s.txt" % (
      "-".join(extras), tf_version))
  if (os.path.isfile(lock) and not gpu and
      os.environ.get("BERT_UNLOCKED") != "1"):
    # Wheels alone: nothing of a package is run while it is installed.
    with open(lock, encoding="utf-8") as reader:
      return make(folder, tf_version,
                  [["--require-hashes", "--only-binary=:all:", "-r", lock]],
                  [pinned, reader.read()])
  # With the placeholder for tensorflow, another version cannot be requested.
  lines = [pinned] + read_requirements(extras) + [
      "tensorflow" + TENSORFLOWS[tf_version][0]] * (
          pinned.startswith("tensorflow-cpu"))
  return make(folder, tf_version, [[pinned], lines], lines)


def raise_on_sigterm():
  """Lets SIGTERM raise `Terminated`, so that children are not left behind."""
  def on_terminate(*unused):
    raise Terminated()
  signal.signal(signal.SIGTERM, on_terminate)


def stop_status(stop):
  """Returns the exit status of a process that a KeyboardInterrupt ended."""
  return 143 if isinstance(stop, Terminated) else 130


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--tf", default=DEFAULT_TF, choices=list(TENSORFLOWS),
                      help="TensorFlow version (default: %(default)s)")
  parser.add_argument("--extra", default="",
      help="extras of pyproject.toml, separated by commas (default: none)")
  options = parser.parse_args(argv)
  raise_on_sigterm()
  try:
    print(ensure(options.extra, options.tf))
  except (EnvironmentFailure, OSError) as error:
    say(str(error))
    return 1
  except KeyboardInterrupt as stop:
    say("Interrupted; run the same command again to resume.")
    return stop_status(stop)
  return 0


if __name__ == "__main__":
  sys.exit(main())
