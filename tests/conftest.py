# SPDX-License-Identifier: Apache-2.0
"""What every test may rely on, however the tests were started."""

import signal

import pytest


# A shell lets what it starts in the background ignore Ctrl-C, and so would
# all that tests start; some of them send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
  """Folder of a tiny BERT of one layer, random weights; not to be changed."""
  import tiny_bert  # pylint: disable=g-import-not-at-top
  return tiny_bert.make_bert(tmp_path_factory.mktemp("bert"),
                             num_hidden_layers=1)


def pytest_addoption(parser):
  parser.addoption("--run_cluster", action="store_true",
                   help="also run the cluster whose members are killed")
