# SPDX-License-Identifier: Apache-2.0
"""Colors the words of a text that made each of its labels.

  python explain_labels.py --model_dir=DIR "a sentence" "another one"
  python explain_labels.py --model_dir=DIR --output_html=words.html "text"
  python explain_labels.py --model_dir=DIR --label=toxic "a sentence"

Red words speak for the label, blue ones against it. From Python:

  with open_explainer("DIR") as explainer:
    for label in explainer.explain("a sentence"):
      print(label.label, label.probability)
      for word in label.words:
        print(word.word, word.start, word.end, word.weight)

`occlusion_weights` does it with any function from texts to probabilities.
"""

import os
import sys

from absl import flags

from multilabel import decisions
from multilabel.common import atomic_files
from multilabel.common import command_line
from multilabel.reporting import coloured_text
from multilabel.reporting import occlusion
from multilabel.storage import onnx_folder
import predict_onnx


FLAGS = flags.FLAGS

COLORS = ("auto", "always", "never")


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Model"):
    flags.DEFINE_string("model_dir", None,
        "--output_dir of a training run; with --method=occlusion also an ONNX "
        "folder.")
    flags.DEFINE_multi_string(
        "label", None, "Label to explain; may be repeated; default: the "
                       "predicted labels, or the most probable one if there "
                       "are none.")
    flags.DEFINE_string("threshold", None, decisions.THRESHOLD_HELP)
  with command_line.flag_group("Explanation"):
    flags.DEFINE_enum(
        "method", "integrated", list(occlusion.METHODS),
        "integrated: integrated gradients, starting from an empty text; "
        "gradient: gradient times input; occlusion: leave out one word at a "
        "time, slow for long texts.")
    flags.DEFINE_string("text_pair", None,
                        "Second text of a pair; needs exactly one text.")
  with command_line.flag_group("Output"):
    flags.DEFINE_enum(
        "color", "auto", list(COLORS),
            "auto: colors in a terminal unless NO_COLOR is set, otherwise one "
            "word and its weight per line.")
    flags.DEFINE_string("output_html", None,
                        "Also write an HTML page with all texts.")


def check_flags(flag_values, texts):
  """Raises ValueError for invalid flags."""
  if not flag_values.model_dir:
    raise ValueError("--model_dir must be given.")
  if not texts:
    raise ValueError("give a text to explain.")
  decisions.parse_threshold(flag_values.threshold)
  if flag_values.text_pair is not None and len(texts) != 1:
    raise ValueError("--text_pair needs exactly one text, not %d." %
                     len(texts))
  pair = [] if flag_values.text_pair is None else [flag_values.text_pair]
  for number, text in enumerate(texts + pair, 1):
    # How Python marks bytes of an argument that are not UTF-8.
    if any("\ud800" <= char <= "\udfff" for char in text):
      raise ValueError("text %d of the command line is not UTF-8." % number)
  path = flag_values.output_html
  if path is not None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
      raise ValueError(
          "--output_html %s: %s is not a writable directory." % (path, folder))
    if os.path.isdir(path):
      raise ValueError("--output_html %s is a directory." % path)
    if os.path.lexists(path) and not _is_page(path):
      raise ValueError("--output_html %s exists and is not an HTML page, so it "
                       "is not overwritten; name another file." % path)


def _is_page(path):
  """Whether a file is empty or begins as an HTML page does."""
  if not os.path.isfile(path):
    return False
  with open(path, "rb") as reader:
    start = reader.read(100).lstrip().lower()
  return not start or start.startswith((b"<!doctype html", b"<html"))


def wants_color(color, is_terminal, environment):
  """Whether to print colors.

  Args:
    color: one of `COLORS`; "always" and "never" are said by the user and win.
    is_terminal: bool, whether standard output is one.
    environment: dict; NO_COLOR (https://no-color.org) and TERM count.

  Returns:
    bool.
  """
  if color != "auto":
    return color == "always"
  return (is_terminal and not environment.get("NO_COLOR") and
          environment.get("TERM") != "dumb")


def open_explainer(folder, method="integrated"):
  """Loads a model to explain it by a method: `occlusion.WordExplainer`.

  Args:
    folder: str, a trained directory, or, for occlusion, an ONNX model's.
    method: one of `occlusion.METHODS`.

  Raises:
    ValueError: the folder is broken, or an ONNX model's and the method needs
      gradients.
  """
  if not onnx_folder.is_onnx(folder):
    command_line.quiet_tensorflow()
    # pylint: disable=g-import-not-at-top
    from multilabel.reporting import attribution
    return attribution.Explainer(folder)
  if method != "occlusion":
    raise ValueError(
        "--method=%s needs gradients, which the ONNX model %s does not have; "
        "use --method=occlusion, or the trained directory." % (
            method, folder))
  return occlusion.OcclusionExplainer(predict_onnx.OnnxPredictor(folder))


def explain_all(flag_values, texts, is_colored, write):
  """Explains texts one by one and writes what the flags ask for.

  Args:
    flag_values: `flags.FlagValues`.
    texts: list of str.
    is_colored: bool.
    write: function of a str, called as soon as a text is done.
  """
  explained_texts = []
  pair = flag_values.text_pair
  with open_explainer(flag_values.model_dir,
                      flag_values.method) as explainer:
    for text in texts:
      explained = coloured_text.ExplainedText(
          [text] if pair is None else [text, pair],
          explainer.explain(
              text if pair is None else (text, pair), flag_values.label,
              flag_values.method,
              decisions.parse_threshold(flag_values.threshold)))
      write("\n" if explained_texts else "")
      explained_texts.append(explained)
      if is_colored:
        write(coloured_text.terminal_text(explained))
      else:
        write(coloured_text.plain_text(explained))
    if is_colored:
      write("\n" + coloured_text.terminal_legend())
    note = "Model %s, checkpoint %s, method %s." % (
        os.path.basename(os.path.abspath(flag_values.model_dir)),
        os.path.basename(explainer.checkpoint), flag_values.method)
  if flag_values.output_html is not None:
    atomic_files.write_text(flag_values.output_html,
                            coloured_text.html_page(explained_texts, note))


def main(argv):
  texts = argv[1:]
  check_flags(FLAGS, texts)

  def write(text):
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.flush()

  explain_all(FLAGS, texts,
              wants_color(FLAGS.color, sys.stdout.isatty(), os.environ), write)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
