# SPDX-License-Identifier: Apache-2.0
"""Makes a virtual environment with TensorFlow inside the repository.

  python3 tools/environment.py --tf=2.21 --extra=demo

finds a Python that the asked TensorFlow has wheels for, makes
`.venvs/<name>` with it, installs TensorFlow and the requirements of
`pyproject.toml` with one of its extras, and prints the path of the
environment's Python. The project itself is not installed: its scripts run
from the repository root. Called again, it finds the environment ready and
does not touch the network.

Where `requirements/` has a list for the extra and the TensorFlow, exactly what
stands there is installed, each file checked by its sha256; `--unlocked` (or
BERT_UNLOCKED=1) takes what `pyproject.toml` allows and the index has today.

Needs nothing but a Python from 3.7 on.
"""

import argparse
import collections
import contextlib
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys

try:
  import fcntl
except ImportError:  # Windows has no advisory locks of this kind.
  fcntl = None

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# requirement: version part of the requirement; pythons: those that have
# wheels, the preferred one first; megabytes: download with an extra, on CPU.
TensorFlow = collections.namedtuple(
    "TensorFlow", ["requirement", "pythons", "megabytes"])

TENSORFLOWS = collections.OrderedDict([
    ("2.21", TensorFlow("==2.21.*", ((3, 11), (3, 12), (3, 10), (3, 13)),
                        380)),
    ("2.15", TensorFlow("==2.15.1", ((3, 11), (3, 10), (3, 9)), 360)),
    ("1.15", TensorFlow("==1.15.5", ((3, 7),), 230)),
])
DEFAULT_TF = "2.21"

# Pip older than this has no TOML reader that Python 3.7 to 3.10 could use.
_MINIMUM_PIP = (21, 2)

_PROBE = ("import sys, json, importlib.util as u; print(json.dumps(["
          "sys.version_info[0], sys.version_info[1], sys.maxsize > 2**32, "
          "u.find_spec('ensurepip') is not None "
          "and u.find_spec('venv') is not None]))")

# Runs inside the environment, where pip brings a TOML and a marker reader.
_READ_REQUIREMENTS = """
import json, sys
try:
  import tomllib as toml
except ImportError:
  from pip._vendor import tomli as toml
from pip._vendor.packaging.requirements import Requirement
with open(sys.argv[1], encoding="utf-8") as reader:
  project = toml.loads(reader.read())["project"]
lines = list(project["dependencies"])
for extra in sys.argv[2:]:
  if extra not in project["optional-dependencies"]:
    sys.exit("pyproject.toml has no extra %r." % extra)
  lines += project["optional-dependencies"][extra]
kept = []
for line in lines:
  requirement = Requirement(line)
  if requirement.marker is None or requirement.marker.evaluate():
    requirement.marker = None
    kept.append(str(requirement))
print(json.dumps(kept))
"""


class EnvironmentFailure(RuntimeError):
  """The environment cannot be made; the message is one sentence."""


class PythonMissing(EnvironmentFailure):
  """No Python on this machine fits the asked TensorFlow."""


class Terminated(KeyboardInterrupt):
  """SIGTERM came; it ends the process as Ctrl-C does, its children first."""


def say(text, end="\n"):
  """Prints to stderr, since stdout carries the result of the script."""
  sys.stderr.write(text + end)
  sys.stderr.flush()


# --- Finding a Python -------------------------------------------------------


def probe_python(executable):
  """Asks an executable which Python it is.

  Args:
    executable: path of a file that may be a Python.

  Returns:
    `(major, minor, is_64_bit, can_make_environments)`, or None if it is no
    Python that runs (pyenv's shims of inactive versions are such).
  """
  try:
    output = subprocess.check_output(
        [executable, "-c", _PROBE], stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, timeout=60)
    return tuple(json.loads(output.decode("utf-8")))
  except (OSError, ValueError, subprocess.SubprocessError):
    return None


def python_candidates(pythons):
  """Lists the executables that may be one of the wanted Pythons, in order.

  Args:
    pythons: sequence of `(major, minor)`, the preferred one first.

  Yields:
    Paths: the running Python, then `pythonX.Y` on PATH and under pyenv for
    each of `pythons`.
  """
  # Inside an environment this is the Python that made it: an environment
  # must not be rebuilt by its own interpreter.
  running = getattr(sys, "_base_executable", None) or sys.executable
  if sys.version_info[:2] in [tuple(p) for p in pythons] and running:
    yield running
  pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
  for version in pythons:
    name = "%d.%d" % tuple(version)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
      path = os.path.join(folder, "python" + name)
      if folder and os.access(path, os.X_OK):
        yield path
    yield from newest_first(
        glob.glob(os.path.join(pyenv, "versions", name + ".*", "bin",
                               "python")))


def newest_first(paths):
  """Sorts pyenv's paths so that 3.11.10 comes before 3.11.9."""
  def numbers(path):
    return [int(n) for n in re.findall(r"\d+", path)]
  return sorted(paths, key=numbers, reverse=True)


def find_python(tf_version):
  """Finds a Python that has wheels of the asked TensorFlow.

  Args:
    tf_version: key of `TENSORFLOWS`.

  Returns:
    `(path, (major, minor))`.

  Raises:
    PythonMissing: there is none, or it cannot make virtual environments.
  """
  pythons = TENSORFLOWS[tf_version].pythons
  without_venv = None
  for path in python_candidates(pythons):
    facts = probe_python(path)
    if facts is None or facts[:2] not in pythons or not facts[2]:
      continue
    if facts[3]:
      return path, facts[:2]
    without_venv = without_venv or (path, facts[:2])
  if without_venv:
    path, version = without_venv
    raise PythonMissing(
        "Python %d.%d at %s cannot make virtual environments: install its "
        "venv module (on Debian and Ubuntu: apt-get install python%d.%d-venv) "
        "and run this again." % (version + (path,) + version))
  raise PythonMissing(
      "TensorFlow %s needs a 64-bit Python %s, and neither PATH nor pyenv has "
      "one." % (tf_version, " or ".join(
          "%d.%d" % version for version in sorted(pythons))))


# --- What to install --------------------------------------------------------


def tensorflow_flavour(gpu, system=None, machine=None):
  """Names the build: "gpu" as asked, "cpu" on x86-64 Linux, else "full"."""
  if gpu:
    return "gpu"
  system = platform.system() if system is None else system
  machine = platform.machine() if machine is None else machine
  if system == "Linux" and machine.lower() in ("x86_64", "amd64"):
    return "cpu"
  return "full"


def tensorflow_requirement(tf_version, flavour):
  """Returns the pip requirement, as in "tensorflow-cpu==2.21.*".

  Args:
    tf_version: key of `TENSORFLOWS`.
    flavour: "cpu", "full" or "gpu".
  """
  requirement = TENSORFLOWS[tf_version].requirement
  if tf_version == "1.15":
    # There is no tensorflow-cpu 1.15.5, and tensorflow 1.15.5 is CPU only.
    names = {"cpu": "tensorflow", "full": "tensorflow",
             "gpu": "tensorflow-gpu"}
  else:
    names = {"cpu": "tensorflow-cpu", "full": "tensorflow",
             "gpu": "tensorflow[and-cuda]"}
  return names[flavour] + requirement


def replace_tensorflow(requirements, pinned):
  """Puts the pinned TensorFlow in the place of the project's own.

  Args:
    requirements: list of requirement strings without markers.
    pinned: the requirement that stands in for "tensorflow...".

  Returns:
    A new list, `pinned` first, without duplicates.
  """
  kept = [pinned]
  for line in requirements:
    name = re.match(r"[A-Za-z0-9._-]+", line).group(0)
    if name.lower() != "tensorflow" and line not in kept:
      kept.append(line)
  return kept


def fingerprint(requirements):
  """Returns the hash that the stamp of a finished environment holds."""
  return hashlib.sha256("\n".join(requirements).encode("utf-8")).hexdigest()


def lock_path(extras, tf_version, flavour):
  """Returns the path of the list of pinned packages, or None if there is none.

  Args:
    extras: list of names of extras.
    tf_version: key of `TENSORFLOWS`.
    flavour: "cpu", "full" or "gpu"; no list has the GPU libraries.
  """
  path = os.path.join(ROOT, "requirements", "%s-tf%s.txt" % (
      "-".join(extras), tf_version))
  if flavour == "gpu" or not extras or not os.path.isfile(path):
    return None
  return path


def lock_header(wanted):
  """Returns the line by which a list says what it was made for.

  Args:
    wanted: list of requirement strings, `tensorflow` not pinned, as
      `read_requirements` gives them.
  """
  # Pips of several ages write the bounds of a version in several orders.
  ordered = [",".join(sorted(re.split(
      r"(?<![<>=!~])(?=[<>=!~])|,", re.sub(r"\s", "", line))))
             for line in wanted]
  return "# For: sha256 %s" % fingerprint(sorted(ordered))


def read_lock(path, wanted):
  """Reads a list of pinned packages, and checks what it was made for.

  Args:
    path: str, as `lock_path` returns it.
    wanted: as for `lock_header`.

  Returns:
    str, its text.

  Raises:
    EnvironmentFailure: it was made for other requirements.
  """
  with open(path, encoding="utf-8") as reader:
    text = reader.read()
  if lock_header(wanted) not in text.splitlines()[:10]:
    raise EnvironmentFailure(
        "%s was made for other requirements than pyproject.toml has now: make "
        "it anew with tools/lock.py, or set BERT_UNLOCKED=1 to do without." %
        relative(path))
  return text


def read_requirements(python, pyproject, extras):
  """Reads `pyproject.toml` with the Python of an environment.

  Args:
    python: path of the environment's Python.
    pyproject: path of the file.
    extras: list of names of extras.

  Returns:
    List of the requirements that apply to that Python, without markers.

  Raises:
    EnvironmentFailure: the file or an extra cannot be read.
  """
  process = subprocess.run(
      [python, "-c", _READ_REQUIREMENTS, pyproject] + list(extras),
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
  if process.returncode:
    lines = process.stderr.decode("utf-8", "replace").strip().splitlines()
    raise EnvironmentFailure("%s cannot be read: %s" % (
        pyproject, lines[-1] if lines else "no reason given."))
  return json.loads(process.stdout.decode("utf-8"))


# --- Pip --------------------------------------------------------------------


def is_pip_notice(line):
  """Whether a line of pip's output tells about pip and not about the work."""
  return bool(re.match(
      r"\s*(WARNING: (Location|Running pip|You are using pip|The script|"
      r"There was an error checking)|DEPRECATION:|\[?notice\]?)", line))


def describe_pip_line(line):
  """Shortens a line of pip for the progress line; None if it says nothing."""
  match = re.match(r"\s*(Downloading|Using cached|Processing) (?:\S*/)?"
                   r"([^\s/]+?)-\d[^\s/]*( \([\d.]+ .?B\))?", line)
  if match:
    return "%s %s%s" % (match.group(1).lower(), match.group(2),
                        match.group(3) or "")
  if line.startswith("Installing collected packages"):
    return "unpacking"
  return None


def run_pip(python, arguments, log_path, lock):
  """Runs pip quietly, its whole output in a file.

  Args:
    python: path of the Python whose pip is run.
    arguments: list of pip's arguments.
    log_path: file that gets the output.
    lock: open file of `locked`; pip holds it as well, so that nobody touches
      its folder before its end even if this process is killed.

  Raises:
    EnvironmentFailure: pip failed; its last lines have been printed.
  """
  command = [python, "-m", "pip"] + arguments
  settings = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1",
                  PIP_NO_INPUT="1", PIP_USER="0", PYTHONUNBUFFERED="1",
                  PYTHONIOENCODING="utf-8")
  tail = collections.deque(maxlen=12)
  live = sys.stderr.isatty()
  with open(log_path, "w", encoding="utf-8") as log:
    process = subprocess.Popen(
        command, env=settings, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        errors="replace", **inherited(lock))
    try:
      for line in process.stdout:
        log.write(line)
        if line.strip() and not is_pip_notice(line):
          tail.append(line.rstrip())
        said = describe_pip_line(line) if live else None
        if said:
          say("\r\x1b[K  %s" % said[:76], end="")
    finally:
      if live:
        say("\r\x1b[K", end="")
      if sys.exc_info()[0] is not None:
        process.terminate()
      process.wait()
  if process.returncode:
    for line in tail:
      say("  " + line)
    raise EnvironmentFailure(
        "pip could not install what is needed (its whole output is in %s); "
        "look at the lines above, check the connection to the package index "
        "and the room on the disk, and run this again." % relative(log_path))


# --- The environment --------------------------------------------------------


def relative(path):
  """Shows a path as seen from the repository root, where it is inside."""
  inside = os.path.relpath(path, ROOT)
  return path if inside.startswith(os.pardir) else inside


def environment_python(folder):
  """Returns the path of an environment's Python."""
  if os.name == "nt":
    return os.path.join(folder, "Scripts", "python.exe")
  return os.path.join(folder, "bin", "python")


def write_stamp(path, text):
  """Writes a small file so that it is there whole or not at all."""
  with open(path + ".tmp", "w", encoding="utf-8") as writer:
    writer.write(text)
    writer.flush()
    os.fsync(writer.fileno())
  os.replace(path + ".tmp", path)


def read_stamp(path):
  """Returns the text of a stamp, or None if there is none."""
  try:
    with open(path, encoding="utf-8") as reader:
      return reader.read()
  except (OSError, UnicodeDecodeError):
    return None


@contextlib.contextmanager
def locked(path, waiting):
  """Holds a lock that the kernel releases when the process dies.

  Args:
    path: lock file, made if it is not there.
    waiting: sentence to print when another process holds the lock.

  Yields:
    The open file, whose descriptor a child process can inherit.
  """
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "a") as lock:
    if fcntl is not None:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError:
        say(waiting)
        fcntl.flock(lock, fcntl.LOCK_EX)
    yield lock


def inherited(lock):
  """Returns the argument of subprocess that lets a child hold the lock too."""
  return {"pass_fds": [lock.fileno()]} if os.name == "posix" else {}


def make_venv(python, version, folder, lock):
  """Makes an empty environment in `folder`, in place of what was there."""
  shutil.rmtree(folder, ignore_errors=True)
  process = subprocess.run(
      [python, "-m", "venv", folder], stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      **inherited(lock))
  if process.returncode:
    for line in process.stdout.decode("utf-8", "replace").splitlines()[-5:]:
      say("  " + line)
    raise EnvironmentFailure(
        "Python %d.%d at %s could not make the virtual environment %s: if it "
        "lacks its venv module, install it (on Debian and Ubuntu: apt-get "
        "install python%d.%d-venv), and run this again." % (
            version + (python, relative(folder)) + version))


def upgrade_old_pip(python, log_path, lock):
  """Brings the environment's pip to a version that can read TOML."""
  output = subprocess.run(
      [python, "-m", "pip", "--version"], stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL).stdout.decode("utf-8", "replace")
  numbers = re.match(r"pip (\d+)\.(\d+)", output)
  if not numbers:
    raise EnvironmentFailure("pip does not run in the new environment; run "
                             "this again.")
  if tuple(int(n) for n in numbers.groups()) < _MINIMUM_PIP:
    run_pip(python, ["install", "--upgrade", "pip"], log_path, lock)


def wanted_stamp(wanted, pinned, lock_file):
  """Returns the fingerprint of what an environment must hold.

  Args:
    wanted: list of requirements, as `read_requirements` gives them.
    pinned: the TensorFlow requirement.
    lock_file: path of the list of pinned packages, or None.
  """
  parts = replace_tensorflow(wanted, pinned)
  if lock_file:
    parts.append(read_lock(lock_file, wanted))
  return fingerprint(parts)


def ready_python(folder, pyproject, extras, pinned, lock_file=None):
  """Returns the Python of a finished environment, or None.

  Args:
    folder: the environment.
    pyproject: path of the project's `pyproject.toml`.
    extras: list of names of extras.
    pinned: the TensorFlow requirement.
    lock_file: path of the list of pinned packages, or None.

  Raises:
    EnvironmentFailure: the list was made for other requirements.
  """
  stamp = read_stamp(os.path.join(folder, "installed.sha256"))
  python = environment_python(folder)
  if stamp is None or probe_python(python) is None:
    return None
  wanted = read_requirements(python, pyproject, extras)
  return python if stamp == wanted_stamp(wanted, pinned, lock_file) else None


def ensure(extra, tf_version=DEFAULT_TF, gpu=None, name=None, unlocked=None):
  """Makes the environment of one TensorFlow and one extra, or finds it.

  Args:
    extra: name of an extra of `pyproject.toml`, several with commas, or ""
      for none.
    tf_version: key of `TENSORFLOWS`.
    gpu: whether to install TensorFlow with its GPU libraries; None: as the
      environment variable `BERT_GPU` says ("1" is yes).
    name: folder under `.venvs`; None: made of the TensorFlow and the extra.
    unlocked: whether to pass over the list of pinned packages; None: as the
      environment variable `BERT_UNLOCKED` says ("1" is yes).

  Returns:
    Absolute path of the environment's Python.

  Raises:
    EnvironmentFailure: it cannot be made, with the reason in one sentence.
  """
  if gpu is None:
    gpu = os.environ.get("BERT_GPU", "") == "1"
  if unlocked is None:
    unlocked = os.environ.get("BERT_UNLOCKED", "") == "1"
  flavour = tensorflow_flavour(gpu)
  pinned = tensorflow_requirement(tf_version, flavour)
  if name is None:
    name = "-".join(part for part in (
        "tf" + tf_version, extra.replace(",", "-"), "gpu" if gpu else "")
                    if part)
  folder = os.path.join(ROOT, ".venvs", name)
  pyproject = os.path.join(ROOT, "pyproject.toml")
  extras = extra.split(",") if extra else []
  lock_file = None if unlocked else lock_path(extras, tf_version, flavour)
  waiting = "Another process is making %s; waiting for it ..."
  with locked(folder + ".lock", waiting % relative(folder)) as lock:
    python = ready_python(folder, pyproject, extras, pinned, lock_file)
    if python is None:
      python = _install(folder, pyproject, extras, tf_version, flavour,
                        lock_file, lock)
  return python


def _install(folder, pyproject, extras, tf_version, flavour, lock_file, lock):
  """Makes an environment from nothing; returns its Python."""
  base, version = find_python(tf_version)
  log_path = folder + ".log"
  say("Making the environment %s with Python %d.%d (%s) ..." % (
      (relative(folder),) + version + (base,)))
  make_venv(base, version, folder, lock)
  python = environment_python(folder)
  upgrade_old_pip(python, log_path, lock)
  wanted = read_requirements(python, pyproject, extras)
  pinned = tensorflow_requirement(tf_version, flavour)
  stamp = wanted_stamp(wanted, pinned, lock_file)
  requirements = replace_tensorflow(wanted, pinned)
  size = ("several GB" if flavour == "gpu" else
          "about %d MB" % TENSORFLOWS[tf_version].megabytes)
  say("Installing TensorFlow %s and %d more packages with what they need "
      "(%s%s) ..." % (tf_version, len(requirements) - 1, size,
                      ", as pinned in " + relative(lock_file)
                      if lock_file else ""))
  # Compiling all of TensorFlow ahead takes longer than what is ever imported.
  command = ["install", "--no-compile", "--progress-bar=off"]
  if lock_file:
    # Wheels alone: nothing of a package is run while it is installed.
    command += ["--require-hashes", "--only-binary=:all:", "-r", lock_file]
  else:
    command += requirements
  try:
    run_pip(python, command, log_path, lock)
  except EnvironmentFailure as error:
    if not lock_file:
      raise
    raise EnvironmentFailure(
        "%s If the package index has not, or has changed, what %s pins, "
        "BERT_UNLOCKED=1 installs what it has." % (error, relative(lock_file)))
  _compile_imports(python)
  write_stamp(os.path.join(folder, "installed.sha256"), stamp)
  return python


def _compile_imports(python):
  """Compiles what programs will import, once.

  Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each process
  would compile TensorFlow's modules anew, for ten seconds and more.
  """
  settings = dict(os.environ)
  settings.pop("PYTHONDONTWRITEBYTECODE", None)
  subprocess.call(
      [python, "-c", "import tensorflow.compat.v1\n"
       "for name in 'sklearn.linear_model', 'matplotlib.pyplot', 'pytest':\n"
       "  try:\n"
       "    __import__(name)\n"
       "  except ImportError:\n"
       "    pass\n"],
      env=settings, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL)


def raise_on_sigterm():
  """Lets SIGTERM raise `Terminated`, so that children are not left behind."""
  def on_terminate(unused_number, unused_frame):
    raise Terminated()

  signal.signal(signal.SIGTERM, on_terminate)


def stop_status(stop):
  """Returns the exit status of a process that a KeyboardInterrupt ended."""
  return 128 + (signal.SIGTERM if isinstance(stop, Terminated)
                else signal.SIGINT)


def main(argv=None):
  parser = argparse.ArgumentParser(
      description="Makes a virtual environment with TensorFlow in .venvs and "
      "prints the path of its Python.")
  parser.add_argument("--tf", default=DEFAULT_TF, choices=list(TENSORFLOWS),
                      help="TensorFlow version (default: %(default)s)")
  parser.add_argument("--extra", default="",
                      help="extra of pyproject.toml to install, several with "
                      "commas (default: none)")
  parser.add_argument("--gpu", action="store_true", default=None,
                      help="install TensorFlow with its GPU libraries "
                      "(default: where BERT_GPU=1 is set)")
  parser.add_argument("--unlocked", action="store_true", default=None,
                      help="pass over the pinned packages in requirements/ "
                      "(default: where BERT_UNLOCKED=1 is set)")
  parser.add_argument("--name", help="folder in .venvs (default: made of the "
                      "version and the extra)")
  options = parser.parse_args(argv)
  raise_on_sigterm()
  try:
    print(ensure(options.extra, options.tf, options.gpu, options.name,
                 options.unlocked))
  except (EnvironmentFailure, OSError) as error:
    say(str(error))
    return 1
  except KeyboardInterrupt as stop:
    say("Interrupted; run the same command again to go on.")
    return stop_status(stop)
  return 0


if __name__ == "__main__":
  sys.exit(main())
