# SPDX-License-Identifier: Apache-2.0
"""Neither TensorFlow nor onnxruntime survives a fork.

Their threads are missing in the forked process, so a call would wait forever.
"""

import os


# Process that began to run TensorFlow; a list, so that it can be changed.
_TENSORFLOW_PROCESS = []


def check_process(pid):
  """RuntimeError if an object made in one process is used in another.

  Args:
    pid: int, the process that loaded the model.
  """
  if os.getpid() != pid:
    raise RuntimeError(
        "this predictor was created before a fork (in process %d, this is %d) "
        "and would hang: create it after the fork, or start processes with "
        "spawn." % (
            pid, os.getpid()))


def begin_tensorflow():
  """Notes that TensorFlow runs in this process, before a session is made.

  Raises:
    RuntimeError: it already ran in the process that this one was forked from.
  """
  if _TENSORFLOW_PROCESS and _TENSORFLOW_PROCESS[0] != os.getpid():
    raise RuntimeError(
        "TensorFlow ran in process %d before this one (%d) was forked from it, "
        "and would hang here: fork first and load models afterwards, or start "
        "processes with spawn." % (_TENSORFLOW_PROCESS[0], os.getpid()))
  _TENSORFLOW_PROCESS[:] = [os.getpid()]
