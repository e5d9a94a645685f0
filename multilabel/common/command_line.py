# SPDX-License-Identifier: Apache-2.0
"""How every script here starts and ends: flags, help, logging, exit status.

A user error raises `ValueError` anywhere and becomes one sentence on stderr
with exit status 2; a failure during the run ends with 1; an interrupted run
with 128 + signal number, and one out of time with 75, sysexits.h's
EX_TEMPFAIL: the same command resumes. `--debug` shows the traceback.
"""

import contextlib
import ctypes
import functools
import gc
import glob
import importlib
import itertools
import logging as python_logging
import os
import re
import sys
import tempfile
import textwrap
import traceback
import warnings

from absl import flags
from absl import logging

from multilabel.common import terminal


FLAGS = flags.FLAGS

_FLAG_GROUPS = []

# What TensorFlow writes to stderr whatever its log level, and on which CPUs.
_ONEDNN_LINES = (b"oneDNN custom operations are on.",
                 b"All log messages before absl::InitializeLog() is called")
# Likewise for TensorFlow with GPU support on a machine without GPUs.
_NO_GPU_LINES = (b"Could not find cuda drivers on your machine",
                 b"failed call to cuInit", b"Unable to register cu",
                 b"computation placer already registered",
                 b"All log messages before absl::InitializeLog() is called")
_ONEDNN_CPUS = ("avx512_vnni", "avx512_bf16", "avx_vnni", "amx_", "asimd")

# Options of glibc's mallopt, from its malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


class Interrupted(Exception):
  """The run was asked to stop and has saved its state."""

  def __init__(self, signal_number, message):
    super(Interrupted, self).__init__(message)
    self.signal_number = signal_number
    self.exit_status = 128 + signal_number


class OutOfTime(Exception):
  """The run is out of time and has saved its state."""

  exit_status = 75


def quiet_tensorflow():
  """Imports TensorFlow quickly and without its startup lines on stderr.

  For scripts, before anything else imports it.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  # TF 1.15 and numpy of its time warn about each other at import.
  warnings.filterwarnings("ignore", category=FutureWarning)
  warnings.filterwarnings("ignore", category=DeprecationWarning)
  python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
  if "tensorflow" not in sys.modules:
    unwanted = ((_ONEDNN_LINES if _says_onednn() else ()) +
                (() if has_nvidia_gpu() else _NO_GPU_LINES))
    with _notice("Loading TensorFlow ..."), _without_keras(), \
        _without_collections(), _without_lines(unwanted):
      try:
        tensorflow = importlib.import_module("tensorflow")
      except ImportError as error:
        if error.name != "tensorflow":
          raise
        _fail("this needs TensorFlow, which is not installed: pip install "
              "tensorflow.", 2)
      if not has_nvidia_gpu() and tensorflow.test.is_built_with_cuda():
        # It looks for GPUs once, and warns if there are none.
        tensorflow.config.experimental.list_physical_devices("GPU")


def has_nvidia_gpu():
  """Whether this process can see a GPU; if so, its messages are kept.
  """
  return bool(glob.glob("/dev/nvidia[0-9]*") or any(
      os.path.exists(path) for path in ("/dev/dxg", "/proc/driver/nvidia")))


@contextlib.contextmanager
def _notice(text):
  """Shows a text on a terminal while the block runs, then removes it."""
  is_shown = sys.stderr is not None and sys.stderr.isatty()
  if is_shown:
    sys.stderr.write(text)
    sys.stderr.flush()
  try:
    yield
  finally:
    if is_shown:
      sys.stderr.write("\r\033[K")
      sys.stderr.flush()


@contextlib.contextmanager
def _without_keras():
  """TensorFlow's import leaves out Keras, as where it is not installed.

  Nothing here needs it, and it takes a third of the time or more (it imports
  scikit-learn and matplotlib if they are installed). It still works if imported
  later.
  """
  if "keras" in sys.modules:
    yield
    return
  sys.modules["keras"] = None
  try:
    yield
  finally:
    del sys.modules["keras"]


@contextlib.contextmanager
def _without_collections():
  """Pauses garbage collection, which finds nothing in the block.

  It takes a fifth of the time of TensorFlow's import. Later collections skip
  the objects that the block made.
  """
  if not gc.isenabled():
    yield
    return
  gc.disable()
  try:
    yield
  finally:
    gc.enable()
    gc.freeze()


def use_onednn_for_batches():
  """Enables oneDNN for a program that works on many texts at a time.

  TensorFlow disables it by default on CPUs with only AVX2, where it makes
  batches about a tenth faster, but single short texts half slower. The user's
  setting is respected. For scripts, before anything imports TensorFlow.
  """
  if onednn_setting() is None and "avx2" in cpu_flags():
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"


def _says_onednn():
  """Whether TensorFlow says at import, before it reads its settings of the log,
  that oneDNN is on; with these CPUs it is by default."""
  setting = onednn_setting()
  if setting is not None:
    return setting
  return any(flag.startswith(_ONEDNN_CPUS) for flag in cpu_flags())


def onednn_setting():
  """What TF_ENABLE_ONEDNN_OPTS says: bool, or None where it is not set."""
  setting = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
  return None if setting is None else setting.lower() not in ("0", "false")


def cpu_flags():
  """CPU features, by their names in Linux: set of str; elsewhere empty."""
  try:
    with open("/proc/cpuinfo") as lines:
      for line in lines:
        name, _, flags_there = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, ARM
          return set(flags_there.split())
  except EnvironmentError:
    pass
  return set()


@contextlib.contextmanager
def _without_lines(unwanted):
  """Filters lines with one of the bytes `unwanted` from file descriptor 2."""
  try:
    stderr = os.dup(2) if unwanted else None
  except OSError:  # it is closed
    stderr = None
  if stderr is None:
    yield
    return
  with tempfile.TemporaryFile() as written:
    sys.stderr.flush()
    os.dup2(written.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(stderr, 2)
      os.close(stderr)
      written.seek(0)
      for line in written:
        if not any(part in line for part in unwanted):
          os.write(2, line)


def keep_freed_memory():
  """Makes glibc keep memory freed by a training step for the next one.

  Otherwise arrays of more than 32 MB, such as the gradient of the word
  embeddings, are returned to the system at each step, which then clears every
  page of the next ones. Does nothing without glibc, or if MALLOC_ variables are
  set.
  """
  if any(name.startswith("MALLOC_") for name in os.environ):
    return
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(_M_MMAP_MAX, 0)
  mallopt(_M_TRIM_THRESHOLD, 2 ** 31 - 1)
  mallopt(_M_TOP_PAD, 64 * 2 ** 20)


@contextlib.contextmanager
def flag_group(title, flag_values=None):
  """Flags defined inside appear under `title` in `--help`.

  Args:
    title: str.
    flag_values: `flags.FlagValues`; None: the program's own. For others there
      is no help.
  """
  if flag_values is not None and flag_values is not FLAGS:
    yield
    return
  before = set(FLAGS)
  yield
  _FLAG_GROUPS.append((title, [name for name in FLAGS if name not in before]))


class FlagsInto(object):
  """absl's `flags`, whose DEFINE_ functions define into one `FlagValues`."""

  def __init__(self, flag_values):
    self._flag_values = flag_values

  def __getattr__(self, name):
    return functools.partial(getattr(flags, name),
                             flag_values=self._flag_values)


def flag_names():
  """Names of the flags that the program defined: list of str.

  Raises:
    RuntimeError: none are defined, since `main` was called without `run`.
  """
  if not _FLAG_GROUPS:
    raise RuntimeError(
        "main needs command-line flags: start the script, or use its class "
        "from Python.")
  return [name for _, names in _FLAG_GROUPS for name in names] + ["debug"]


def run(main, define_flags, description):
  """Defines and parses the flags, runs `main(argv)`, exits the process.

  Args:
    main: function of the arguments that are not flags (argv[0] first).
    define_flags: function without arguments that defines the script's flags.
    description: str, what `--help` says first.
  """
  _forget_flags()
  define_flags()
  flags.DEFINE_bool("debug", False,
                    "Show tracebacks of errors and TensorFlow's log.")
  FLAGS.set_gnu_getopt(True)
  # What follows a bare -- is not a flag.
  own_arguments = itertools.takewhile(lambda arg: arg != "--", sys.argv[1:])
  if any(arg in ("--help", "-help", "-h", "--helpfull")
         for arg in own_arguments):
    FLAGS.mark_as_parsed()
    sys.exit(_exit_status(lambda _: print(format_help(description)), None))
  try:
    argv = FLAGS(sys.argv)
  except (flags.Error, EnvironmentError, UnicodeError) as error:
    _fail("%s (--help lists the flags)" % _flag_sentence(error), 2)
  _set_up_logging()
  sys.exit(_exit_status(main, argv))


def _forget_flags():
  """Removes the flags of a script that this process ran before."""
  for name in [name for _, names in _FLAG_GROUPS for name in names] + ["debug"]:
    if name in FLAGS:
      delattr(FLAGS, name)
  _FLAG_GROUPS[:] = []
  FLAGS.unparse_flags()


def _exit_status(main, argv):
  """Runs `main` and converts its outcome into an exit status."""
  try:
    main(argv)
    sys.stdout.flush()
    return 0
  except (Interrupted, OutOfTime) as interrupted:
    return _report(interrupted, interrupted.exit_status)
  except KeyboardInterrupt:
    return _report("interrupted", 130)
  except BrokenPipeError:
    # The reader of our output has gone (`| head`): that is not an error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except ValueError as error:
    return _report(error, 2)
  except MemoryError as error:
    return _report("out of memory; use a smaller batch size or max_seq_length "
                   "(%s)" % error, 1)
  except Exception as error:  # pylint: disable=broad-except
    return _report(error, 1)


def _report(error, status):
  if FLAGS.debug:
    traceback.print_exc()
  print("%s: %s" % (os.path.basename(sys.argv[0]),
                    terminal.printable(_sentence(error))), file=sys.stderr)
  return status


def _fail(message, status):
  print("%s: %s" % (os.path.basename(sys.argv[0]),
                    terminal.printable(message)), file=sys.stderr)
  sys.exit(status)


def _sentence(error):
  text = " ".join(str(error).split())
  if not isinstance(error, BaseException):
    return text
  if isinstance(error, EnvironmentError) and error.strerror:
    return "%s%s" % (error.strerror,
                     ": %s" % error.filename if error.filename else "")
  # Our own errors explain themselves; for others the name helps.
  if isinstance(error, (ValueError, Interrupted, OutOfTime, flags.Error,
                        RuntimeError, FloatingPointError)):
    return text or type(error).__name__
  return "%s: %s" % (type(error).__name__, text[:600])


def _flag_sentence(error):
  """What absl says of flags, as a sentence without its full stop."""
  text = _sentence(error).rstrip(". ")
  text = re.sub(r": \('Non-boolean argument to boolean flag', .*\)$",
                ": it must be true or false", text)
  return re.sub(
      r"^ERROR:: Unable to open flagfile: \[Errno \d+\] (.*): '(.*)'$",
      r"--flagfile=\2 cannot be opened: \1", text)


def _set_up_logging():
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().setFormatter(terminal.Formatter(
      "%(asctime)s %(message)s", datefmt="%H:%M:%S"))
  if not FLAGS.debug:
    python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)


def format_help(description):
  """Returns the help text: the description, then the flags by group."""
  lines = [description.strip()]
  for title, names in _FLAG_GROUPS + [("Other", ["debug"])]:
    lines.extend(["", title + ":"])
    for name in names:
      lines.extend(_format_flag(FLAGS[name]))
  # absl keeps this one apart from the others.
  lines.extend(["  --flagfile=FILE",
                "      Read flags from a file, one per line."])
  return "\n".join(lines)


def _format_flag(flag):
  default = "" if flag.default is None else "=%s" % (
      flag.serializer.serialize(flag.default)
      if flag.serializer and isinstance(flag.default, list)
      else str(flag.default).lower() if flag.boolean else flag.default)
  head = "  --%s%s" % (("[no]" if flag.boolean else "") + flag.name, default)
  return [head] + textwrap.wrap(
      " ".join((flag.help or "").split()), width=78,
      initial_indent="      ", subsequent_indent="      ")
