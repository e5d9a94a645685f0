# SPDX-License-Identifier: Apache-2.0
"""What every test may rely on, however the tests were started."""

import collections
import json
import shutil
import signal

import pytest

try:
  import fcntl
except ImportError:  # Windows has no advisory locks of this kind.
  fcntl = None

# A shell lets what it starts in the background ignore Ctrl-C, and so would
# all that tests start; some of them send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# output_dir: str. log: list of str, what the run said.
Learned = collections.namedtuple("Learned", ["output_dir", "log"])


# pylint: disable=g-import-not-at-top


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, request):
  """A function that makes a folder once for all workers: `made_once(name,
  make)` calls `make(folder)` in the worker that comes first, and returns the
  folder, a path, in each. What is in it is not to be changed."""
  root = tmp_path_factory.getbasetemp()
  if hasattr(request.config, "workerinput"):  # the folder of the whole run
    root = root.parent

  def find_or_make(name, make):
    folder, finished = root / "shared" / name, root / (name + ".finished")
    with open(str(root / (name + ".lock")), "w") as lock:
      if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX)
      if not finished.exists():
        shutil.rmtree(str(folder), ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        finished.touch()
    return folder

  return find_or_make


@pytest.fixture(scope="session")
def bert(made_once):
  """Folder of a tiny BERT of one layer, random weights; not to be changed."""
  import tiny_bert
  return str(made_once("bert", lambda folder: tiny_bert.make_bert(
      folder, num_hidden_layers=1)))


@pytest.fixture(scope="session")
def data(made_once):
  """Folder of `tiny_bert.make_data`; not to be changed."""
  import tiny_bert
  return str(made_once("data", tiny_bert.make_data))


@pytest.fixture(scope="session")
def learned(made_once, bert, data):
  """`Learned`: a run of 12 epochs of 15 steps; copy it before you change it."""
  import run_multilabel_classifier
  import tiny_bert

  def make(folder):
    status, stdout, stderr, log = tiny_bert.call(
        run_multilabel_classifier, tiny_bert.arguments(
            bert, data, folder / u"a b \u76ee\u5f55", num_train_epochs=12,
            do_eval=True, do_predict=True, log_steps=15,
            save_checkpoints_steps=50, keep_checkpoint_max=3))
    assert (status, stdout, stderr) == (0, "", "")
    tiny_bert.write_text(folder / "log.json", json.dumps(log))

  folder = made_once("learned", make)
  return Learned(str(folder / u"a b \u76ee\u5f55"),
                 json.loads(tiny_bert.read_text(folder / "log.json")))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
  """A directory of `tiny_model.make` and its weights; not to be changed."""
  import tiny_model
  folder = str(tmp_path_factory.mktemp("made") / "model")
  return folder, tiny_model.make(folder)


@pytest.fixture
def unchecked(monkeypatch):
  """Leaves out the process that loads an export back: seconds each."""
  import tiny_export

  from multilabel.export import export_check
  monkeypatch.setattr(export_check, "Checker", tiny_export.Unchecked)


def pytest_addoption(parser):
  parser.addoption("--slow", action="store_true",
                   help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
  if not config.getoption("--slow"):
    for item in items:
      if item.get_closest_marker("slow"):
        item.add_marker(pytest.mark.skip(reason="slow; --slow runs it"))
