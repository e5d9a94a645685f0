# SPDX-License-Identifier: Apache-2.0
"""Labels texts with a trained directory: load once, predict many times.

  python predict_session.py --model_dir=DIR "a sentence" "another one"
  python predict_session.py --model_dir=DIR --input_file=texts.csv \
      --text_column=text --output_file=labels.jsonl
  python predict_session.py --model_dir=DIR          # asks for texts

From Python:

  with SessionPredictor("DIR") as predictor:
    probabilities = predictor.predict(["a sentence", ("text a", "text b")])

DIR can be a folder of export_saved_model.py --format=onnx too, which
predict_onnx.py reads without TensorFlow.
"""

import sys

from multilabel.common import command_line

if __name__ == "__main__":
  if any(arg.lstrip("-").startswith("input_file") for arg in sys.argv[1:]):
    command_line.use_onednn_for_batches()
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
from absl import flags

from multilabel.inference import loaded_model
from multilabel.inference import onnx_model
from multilabel.inference import predict_program
from multilabel.inference import predictor
from multilabel.storage import onnx_folder

FLAGS = flags.FLAGS


class SessionPredictor(predictor.Predictor):
  """A trained model in its own graph and session.

  Several predictors can live in one process, beside TF 2 code that runs
  eagerly; all methods may be called from several threads.

  Attributes: those of `predictor.Predictor`; `checkpoint` is the prefix of
    the checkpoint, `step` the step in its name, 0 if there is none.
  """

  def __init__(self, model_dir: str, batch_size: int = 32, device=None,
               inter_op_threads=None, intra_op_threads=None, checkpoint=None,
               allow_older_checkpoint=False, verify_checkpoint=True,
               profile_dir=None):
    """Loads a model.

    Args:
      model_dir: str, `--output_dir` of a training run.
      batch_size: int, texts per `session.run`.
      device: str, "/cpu:0", "/gpu:0", ...; None: TensorFlow chooses.
      inter_op_threads: int, operations that run side by side; None:
        TensorFlow's number.
      intra_op_threads: int, threads that work on one operation, set for the
        whole process by what of TensorFlow runs first in it; None:
        TensorFlow's number.
      checkpoint: str, prefix, or its name in `trained_model`; None: the best
        one on dev if the run kept account of that, else the newest.
      allow_older_checkpoint: bool, whether the newest intact checkpoint may
        replace a broken one, with a warning.
      verify_checkpoint: bool, whether it is made sure that the checkpoint is
        of this run, as it was written, and has no weight that is not finite.
      profile_dir: str, where `session_profile` writes its traces, or None.

    Raises:
      ValueError: a file is missing or broken, the checkpoint does not fit or
        has weights that are not finite, or an argument is invalid.
    """
    super(SessionPredictor, self).__init__(loaded_model.SessionEngine(
        model_dir, device, inter_op_threads, intra_op_threads, checkpoint,
        allow_older_checkpoint, verify_checkpoint, profile_dir), batch_size)

  def save_weights(self, prefix):
    """Writes the weights as a checkpoint, without optimizer state."""
    with self._served.borrow() as loaded:
      loaded.save(prefix)


def _open_predictor(folder, batch_size, allow_older_checkpoint,
                    verify_checkpoint, profile_dir):
  """A `Predictor` of either kind of folder."""
  if onnx_folder.is_onnx(folder):
    return predictor.Predictor(onnx_model.OnnxEngine(
        folder, verify=verify_checkpoint, profile_dir=profile_dir), batch_size)
  return SessionPredictor(
      folder, batch_size, allow_older_checkpoint=allow_older_checkpoint,
      verify_checkpoint=verify_checkpoint, profile_dir=profile_dir)


def define_flags():
  """Defines this script's flags; called where the script starts."""
  predict_program.define_flags()


def check_flags(flag_values, texts):
  """Raises ValueError for invalid flags."""
  predict_program.check_flags(flag_values, texts)


def main(argv):
  check_flags(FLAGS, argv[1:])
  predict_program.predict(FLAGS, argv[1:], _open_predictor)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
