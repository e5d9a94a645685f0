# SPDX-License-Identifier: Apache-2.0
"""Labels texts with an exported ONNX model, without TensorFlow.

  python export_saved_model.py --format=onnx --model_dir=DIR --export_dir=ONNX
  python predict_onnx.py --model_dir=ONNX "a sentence" "another one"
  python predict_onnx.py --model_dir=ONNX --input_file=texts.csv \
      --text_column=text --output_file=labels.jsonl

From Python:

  with OnnxPredictor("ONNX") as predictor:
    probabilities = predictor.predict(["a sentence", ("text a", "text b")])

Needs numpy and onnxruntime. `open_predictor` takes a trained directory too, and
imports TensorFlow then.
"""

import importlib.util

from absl import flags

from multilabel.common import command_line
from multilabel.inference import onnx_model
from multilabel.inference import predict_program
from multilabel.inference import predictor
from multilabel.storage import onnx_folder

FLAGS = flags.FLAGS


class OnnxPredictor(predictor.Predictor):
  """An exported model in onnxruntime, with `SessionPredictor`'s interface.

  Attributes: those of `predictor.Predictor`; `checkpoint` is the folder of
    model.onnx.
  """

  def __init__(self, folder: str, batch_size: int = 32, device=None,
               inter_op_threads=None,
               intra_op_threads=None, verify_checkpoint=True,
               profile_dir=None):
    """Loads a model.

    Args:
      folder: str, `--export_dir` of `export_saved_model.py --format=onnx`; of
        several versions in it the highest is taken.
      batch_size: int, texts per run.
      device: str, "/cpu:0", or None.
      inter_op_threads: int, operations that run side by side; None: one after
        the other, which is fastest for a BERT.
      intra_op_threads: int, threads that work on one operation; None: one a
        core.
      verify_checkpoint: bool, whether every file is compared with the sha256
        in the manifest, or its size alone.
      profile_dir: str, where onnxruntime writes a timeline, or None.

    Raises:
      ValueError: a file is missing or broken, onnxruntime is not installed, or
        an argument is invalid.
    """
    if device is not None and device.lower().replace(
        "device:", "") != "/cpu:0":
      raise ValueError("device is %s; an ONNX model runs on /cpu:0." % device)
    super(OnnxPredictor, self).__init__(onnx_model.OnnxEngine(
        folder, inter_op_threads, intra_op_threads, verify_checkpoint,
        profile_dir), batch_size)


def open_predictor(folder: str, batch_size: int = 32, device=None,
                   inter_op_threads=None,
                   intra_op_threads=None, allow_older_checkpoint=False,
                   verify_checkpoint=True, profile_dir=None):
  """Loads a model of either kind.

  Args:
    folder: str, a trained directory, or one with an ONNX model.
    batch_size, device, inter_op_threads, intra_op_threads, verify_checkpoint,
      profile_dir: see `OnnxPredictor` and `SessionPredictor`.
    allow_older_checkpoint: see `SessionPredictor`; an ONNX folder has one
      model.

  Returns:
    `OnnxPredictor` or `predict_session.SessionPredictor`.

  Raises:
    ValueError: the folder is neither, is broken, or needs a package that is
      not installed.
  """
  settings = {
      "batch_size": batch_size, "device": device,
      "inter_op_threads": inter_op_threads,
      "intra_op_threads": intra_op_threads,
      "verify_checkpoint": verify_checkpoint, "profile_dir": profile_dir}
  if onnx_folder.is_onnx(folder):
    return OnnxPredictor(folder, **settings)
  try:
    import predict_session  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    if (error.name or "").partition(".")[0] != "tensorflow":
      raise
    raise ValueError(
        "%s has no ONNX model, and a trained directory needs TensorFlow, which "
        "is not installed; export one with export_saved_model.py "
        "--format=onnx, or install TensorFlow." % folder)
  return predict_session.SessionPredictor(
      folder, allow_older_checkpoint=allow_older_checkpoint, **settings)


def open_in_script(folder, **settings):
  """`open_predictor`; TensorFlow, where it is needed, is imported quietly."""
  if not onnx_folder.is_onnx(folder) and (
      importlib.util.find_spec("tensorflow")):
    command_line.quiet_tensorflow()
  return open_predictor(folder, **settings)


def define_flags():
  """Defines this script's flags; called where the script starts."""
  predict_program.define_flags()


def check_flags(flag_values, texts):
  """Raises ValueError for invalid flags."""
  predict_program.check_flags(flag_values, texts)


def main(argv):
  check_flags(FLAGS, argv[1:])
  predict_program.predict(FLAGS, argv[1:], open_in_script)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
