# SPDX-License-Identifier: Apache-2.0
"""Pins every package of the demo, with the sha256 of each of its files.

  python tools/lock.py

writes `requirements/demo-tf2.21.txt` for all Pythons and machines that the
demo runs on, by the resolver of uv, which must be on PATH or in the running
environment (`pip install uv`). No package index is named in it: pip asks the
one that it is set up for. Run it after a change of `dependencies` or of the
extra `demo` in `pyproject.toml`, or to take newer versions; then make the
demo's environment, and run the demo, before the new list is committed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile


sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import environment  # pylint: disable=wrong-import-position


EXTRA = "demo"
TF = environment.DEFAULT_TF
OLDEST_PYTHON = "3.10"
HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Made by tools/lock.py; not to be edited.
%s
"""
# As `environment.tensorflow_requirement` chooses.
_CPU = "sys_platform == 'linux' and platform_machine == 'x86_64'"
_FULL = "sys_platform != 'linux' or platform_machine != 'x86_64'"


def lock_input(wanted):
  """Returns the requirements with TensorFlow for each machine, list of str."""
  return ["%s; %s" % (environment.tensorflow_requirement(
      TF, system="Linux", machine=machine), marker)
          for machine, marker in (("x86_64", _CPU), ("other", _FULL))] + wanted


def header(wanted):
  """The line by which a list says which requirements it was made for."""
  lines = "\n".join(sorted(lock_input(wanted)))
  return "# For: sha256 %s" % hashlib.sha256(lines.encode("utf-8")).hexdigest()


def find_uv():
  """Returns the path of uv, or ends the process with a sentence."""
  beside = os.path.join(os.path.dirname(sys.executable), "uv")
  found = beside if os.path.exists(beside) else shutil.which("uv")
  if not found:
    sys.exit("uv is not there; get it with pip install uv, and run this again.")
  return found


def main():
  uv = find_uv()
  wanted = environment.read_requirements([EXTRA])
  with tempfile.TemporaryDirectory() as folder:
    source = os.path.join(folder, "demo.in")
    with open(source, "w", encoding="utf-8") as writer:
      writer.write("\n".join(lock_input(wanted)) + "\n")
    output = os.path.join(folder, "demo.txt")
    status = subprocess.call(
        [uv, "pip", "compile", "--universal", "--generate-hashes",
         "--no-build", "--no-header", "--no-annotate", "--quiet",
         "--python-version", OLDEST_PYTHON, source, "-o", output])
    if status:
      sys.exit("uv could not choose versions; what it said is above.")
    with open(output, encoding="utf-8") as reader:
      text = HEADER % header(wanted) + reader.read()
  path = os.path.join(environment.ROOT, "requirements",
                      "%s-tf%s.txt" % (EXTRA, TF))
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "w", encoding="utf-8") as writer:
    writer.write(text)
  print(environment.relative(path))


if __name__ == "__main__":
  main()
