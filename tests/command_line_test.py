# SPDX-License-Identifier: Apache-2.0
"""Tests of how scripts start and end, with a small script of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from multilabel.common import command_line


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

SCRIPT = u'''
"""Does what it is told."""
import os
import signal
import sys
from multilabel.common import command_line
from absl import flags
from absl import logging

def define_flags():
  with command_line.flag_group("Doing"):
    flags.DEFINE_enum("do", "print", ["print", "value", "interrupt", "stop",
                                      "file", "memory", "other", "log", "wait",
                                      "run", "later"],
                      "What to do, which is told in words that need more than "
                      "one line of the help.")
  with command_line.flag_group("Else"):
    flags.DEFINE_integer("times", 1, "How often.")
    flags.DEFINE_string("name", None, "A name.")
    flags.DEFINE_bool("louder", True, "Louder.")
    flags.DEFINE_list("parts", ["a", "b"], "Parts.")

def main(argv):
  do = flags.FLAGS.do
  if do == "print":
    for _ in range(flags.FLAGS.times):
      print(" ".join(argv[1:]))
  elif do == "value":
    raise ValueError("the text\\n  is \\u4e0d\\u597d; write another.")
  elif do == "interrupt":
    raise KeyboardInterrupt()
  elif do == "stop":
    raise command_line.Interrupted(signal.SIGTERM, "stopped; all is saved.")
  elif do == "later":
    raise command_line.OutOfTime("the time is over; all is saved.")
  elif do == "file":
    open("/nowhere/at/all")
  elif do == "memory":
    raise MemoryError("3 GB")
  elif do == "run":
    raise RuntimeError("it broke.")
  elif do == "other":
    {}["key"]
  elif do == "log":
    logging.info("a line")
  elif do == "wait":
    print("waiting", flush=True)
    signal.pause()

command_line.run(main, define_flags, __doc__)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
  path = tmp_path_factory.mktemp("script") / "doing.py"
  path.write_text(SCRIPT, encoding="utf-8")
  return str(path)


def start(script, *arguments, **options):
  environment = dict(os.environ, PYTHONPATH=ROOT)
  environment.update(options.pop("env", {}))
  options.setdefault("stdout", subprocess.PIPE)
  options.setdefault("stderr", subprocess.PIPE)
  return subprocess.Popen([sys.executable, script] + list(arguments),
                          env=environment, **options)


def run(script, *arguments, **options):
  """Returns (exit status, stdout, stderr)."""
  process = start(script, *arguments, **options)
  out, err = process.communicate(timeout=60)
  return (process.returncode,
          None if out is None else out.decode("utf-8"), err.decode("utf-8"))


@pytest.mark.parametrize("do, status, message", [
    ("value", 2, u"the text is \u4e0d\u597d; write another."),
    ("interrupt", 130, "interrupted"),
    ("stop", 143, "stopped; all is saved."),
    ("later", 75, "the time is over; all is saved."),
    ("file", 1, "No such file or directory: /nowhere/at/all"),
    ("memory", 1, "out of memory; use a smaller batch size or max_seq_length "
                  "(3 GB)"),
    ("run", 1, "it broke."),
    ("other", 1, "KeyError: 'key'"),
])
def test_exit_status_and_one_sentence(do, status, message, script):
  environment = {"PYTHONIOENCODING": "utf-8"}
  assert run(script, "--do=" + do, env=environment) == (
      status, "", u"doing.py: %s\n" % message)
  code, out, err = run(script, "--do=" + do, "--debug", env=environment)
  assert (code, out) == (status, "")
  assert err.endswith(u"doing.py: %s\n" % message)
  assert "Traceback" in err


def test_success(script):
  assert run(script, "one", "--times=2", "two") == (0, "one two\none two\n", "")
  assert run(script) == (0, "\n", "")


def test_log_goes_to_stderr(script):
  status, out, err = run(script, "--do=log")
  assert (status, out) == (0, "")
  assert err.count("\n") == 1
  assert err.endswith(" a line\n")


@pytest.mark.parametrize("argument, message", [
    ("--nosuch=1", "Unknown command line flag 'nosuch'"),
    ("--tims=1", "Unknown command line flag 'tims'. Did you mean: times ?"),
    ("--times=many", "--times=many"),
    ("--do=sing", "value should be one of"),
    ("--name", "Missing value for flag --name"),
    ("--flagfile=/nowhere",
     "--flagfile=/nowhere cannot be opened: No such file or directory (--help"),
])
def test_flags_that_cannot_be_read(argument, message, script):
  status, out, err = run(script, argument)
  assert (status, out) == (2, "")
  assert err.count("\n") == 1
  assert err.startswith("doing.py: ")
  assert message in err
  assert "--help lists the flags" in err


@pytest.mark.parametrize("argument", ["--help", "-h", "-help", "--helpfull"])
def test_help(argument, script):
  assert run(script, "--times=x", argument) == (0, """\
Does what it is told.

Doing:
  --do=print
      <print|value|interrupt|stop|file|memory|other|log|wait|run|later>: What
      to do, which is told in words that need more than one line of the help.

Else:
  --times=1
      How often.
  --name
      A name.
  --[no]louder=true
      Louder.
  --parts=a,b
      Parts.

Other:
  --[no]debug=false
      Show tracebacks of errors and TensorFlow's log.
  --flagfile=FILE
      Read flags from a file, one per line.
""", "")


def test_arguments_after_two_dashes(script):
  assert run(script, "--times=1", "--", "--help", "-h", "--nosuch") == (
      0, "--help -h --nosuch\n", "")


def test_flagfile(script, tmp_path):
  (tmp_path / "flags").write_text(u"# A comment.\n--times=3\n--nolouder\n")
  assert run(script, "--flagfile=%s" % (tmp_path / "flags"), "x") == (
      0, "x\nx\nx\n", "")


@pytest.mark.parametrize("arguments", [
    ("--times=100000", "words that fill the pipe"), ("short",), ("--help",)])
def test_reader_that_has_gone(arguments, script):
  """`| head` is no error, wherever the write fails."""
  read_end, write_end = os.pipe()
  os.close(read_end)
  try:
    assert run(script, *arguments, stdout=write_end) == (0, None, "")
  finally:
    os.close(write_end)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [
    ("--times=100000", "many words"), ("short",), ("--help",)])
def test_full_disk(arguments, script):
  with open("/dev/full", "wb") as full:
    assert run(script, *arguments, stdout=full) == (
        1, None, "doing.py: No space left on device\n")


def test_interrupt_by_signal(script):
  process = start(script, "--do=wait")
  assert process.stdout.readline() == b"waiting\n"
  time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out, err) == (
      130, b"", b"doing.py: interrupted\n")


def test_message_in_another_encoding(script):
  status, out, err = run(script, "--do=value",
                         env={"PYTHONIOENCODING": "ascii"})
  assert (status, out) == (2, "")
  assert err == "doing.py: the text is \\u4e0d\\u597d; write another.\n"


def python(code, **options):
  """Runs code in a process of its own: (status, stdout, stderr)."""
  process = subprocess.run(
      [sys.executable, "-c", "import sys; sys.path.insert(0, %r)\n%s" % (
          ROOT, code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=dict(os.environ, TF_ENABLE_ONEDNN_OPTS="1", **options))
  return (process.returncode, process.stdout.decode("utf-8"),
          process.stderr.decode("utf-8"))


def test_tensorflow_comes_without_keras_and_without_a_line():
  status, out, err = python(
      "from multilabel.common import command_line\n"
      "command_line.quiet_tensorflow()\n"
      "print('tensorflow' in sys.modules, 'keras' in sys.modules)\n"
      "import gc, tensorflow\n"
      "print(tensorflow.keras.layers.Dense.__name__, gc.isenabled())")
  assert (status, out) == (0, "True False\nDense True\n")
  assert "oneDNN" not in err and "InitializeLog" not in err
  # As long as nobody asks for Keras nothing at all is said.
  status, out, err = python("from multilabel.common import command_line\n"
                            "command_line.quiet_tensorflow()")
  assert (status, out, err) == (0, "", "")


def test_other_lines_and_a_closed_stderr():
  code = ("import os; from multilabel.common import command_line\n"
          "with command_line._without_lines((b'unwanted',)):\n"
          "  os.write(2, b'one\\nsome unwanted thing\\n')\n"
          "  sys.stderr.write('two')\n"
          "sys.stdout.write('after')")
  assert python(code) == (0, "after", "one\ntwo")
  assert python("import os; from multilabel.common import command_line\n"
                "os.close(2)\n"
                "with command_line._without_lines((b'unwanted',)):\n"
                "  sys.stdout.write('inside')") == (0, "inside", "")


def test_what_an_import_says_is_told_when_it_fails():
  status, _, err = python(
      "import os; from multilabel.common import command_line\n"
      "with command_line._without_lines((b'unwanted',)):\n"
      "  os.write(2, b'the reason\\n')\n"
      "  raise ImportError('no')")
  assert status == 1 and err.startswith("the reason\n") and (
      err.endswith("ImportError: no\n"))


def test_a_script_can_be_run_twice_in_one_process(tmp_path):
  path = tmp_path / "script.py"
  path.write_text(
      "from absl import flags\n"
      "from multilabel.common import command_line\n"
      "def define_flags():\n"
      "  with command_line.flag_group('Own'):\n"
      "    flags.DEFINE_integer('number', 1, 'A number.')\n"
      "def main(argv):\n"
      "  print(flags.FLAGS.number, command_line.flag_names())\n"
      "command_line.run(main, define_flags, 'A script.')\n")
  code = (
      "import runpy, sys\n"
      "from multilabel.common import command_line\n"
      "try:\n"
      "  command_line.flag_names()\n"
      "except RuntimeError as error:\n"
      "  print(str(error)[:10])\n"
      "for number in ('2', None, '3'):\n"
      "  sys.argv = ['script.py'] + (\n"
      "      ['--number=' + number] if number else [])\n"
      "  try:\n"
      "    runpy.run_path(%r, run_name='__main__')\n"
      "  except SystemExit as end:\n"
      "    assert end.code == 0\n" % str(path))
  assert python(code) == (0, "main needs\n2 ['number', 'debug']\n1 ['number', "
                          "'debug']\n3 ['number', 'debug']\n", "")


def test_only_a_machine_without_a_gpu_is_silent_about_it(monkeypatch):
  for found, expected in (([], False), (["/dev/nvidia0"], True)):
    monkeypatch.setattr(command_line.glob, "glob", lambda _, found=found: found)
    monkeypatch.setattr(command_line.os.path, "exists", lambda _: False)
    assert command_line.has_nvidia_gpu() is expected
    monkeypatch.undo()
