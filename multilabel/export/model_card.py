# SPDX-License-Identifier: Apache-2.0
"""A model card: what a trained model is, how good it is, and its limits."""

import os
import re

from multilabel.common import atomic_files


# Scores shown from eval_results.txt and test_eval_results.txt, and their names.
_SCORES = (
    ("micro_f1", "micro-F1"), ("macro_f1", "macro-F1"),
    ("weighted_f1", "weighted F1"), ("samples_f1", "F1 per text (mean)"),
    ("samples_f1_present", "F1 per text with a true or predicted label (mean)"),
    ("micro_precision", "micro precision"), ("micro_recall", "micro recall"),
    ("macro_average_precision", "mean average precision"),
    ("label_ranking_average_precision", "label ranking average precision"),
    ("subset_accuracy", "all labels right"), ("hamming_loss", "Hamming loss"))
_RESULTS = (("dev", "eval_results.txt"), ("test", "test_eval_results.txt"))
_SETTINGS = (
    "learning_rate", "head_learning_rate", "num_train_epochs",
    "train_batch_size", "warmup_proportion", "layer_decay", "freeze_layers",
    "random_seed", "init_bias_from_prior")
_MOST_LABELS = 1000

CARD_FILE = "model_card.md"
_MARK = ("<!-- Written by bert-multilabel; without this line the file is left "
         "alone. -->")


def make(trained):
  """Makes the text of a card, in Markdown, without front matter.

  Args:
    trained: `trained_model.TrainedModel`. Scores and counts come from the files
      beside it; missing ones are left out.

  Returns:
    str.
  """
  folder = trained.path
  results = {part: _read_results(os.path.join(folder, name))
             for part, name in _RESULTS}
  name = os.path.basename(os.path.abspath(folder))
  sections = [
      "# %s" % in_markdown(name),
      "A BERT that predicts a separate probability for each of %d labels: a "
      "text can have several labels, or none." % len(trained.labels),
      _labels_section(trained, results), _scores_section(results),
      _data_section(folder, results), _settings_section(trained),
      _limits_section(trained)]
  return "\n\n".join(section for section in sections if section) + "\n"


def write(trained):
  """Writes the card of a trained directory into it, as `CARD_FILE`.

  A card without the last line belongs to the user and is kept.

  Args:
    trained: see `make`.

  Returns:
    str, its path; None if the existing card is kept.
  """
  path = os.path.join(trained.path, CARD_FILE)
  if os.path.lexists(path) and not _is_ours(path):
    return None
  atomic_files.write_text(path, "%s\n%s\n" % (make(trained), _MARK))
  return path


def _is_ours(path):
  if os.path.islink(path) or not os.path.isfile(path):
    return False
  with open(path, "rb") as reader:
    return reader.read().rstrip().endswith(_MARK.encode("utf-8"))


def in_markdown(text):
  """Escapes text so that Markdown and HTML show it verbatim, on one line."""
  text = " ".join(text.split())
  text = text.replace("&", "&amp;").replace("<", "&lt;")
  return re.sub(r"([\\`*_{}\[\]()#+!|~$>])", r"\\\1", text)


def _read_results(path):
  """Returns {key: float} of a file with `key = value` lines; {} without it."""
  try:
    with atomic_files.open_regular(path) as reader:
      lines = reader.read().decode("utf-8").splitlines()
  except (OSError, ValueError):
    return {}
  results = {}
  for line in lines:
    key, separator, value = line.rpartition(" = ")
    try:
      results[key] = float(value) if separator else None
    except ValueError:
      continue
  return results


def _labels_section(trained, results):
  """Names, thresholds and F1 of each label."""
  decision = trained.decision
  head = ["label"] if decision.is_by_text else ["label", "threshold"]
  each = decision.threshold_of_each(len(trained.labels))
  parts = [part for part, _ in _RESULTS if any(
      key.startswith("f1/") for key in results[part])]
  rows = []
  for label, threshold in zip(trained.labels[:_MOST_LABELS], each):
    cells = [] if decision.is_by_text else ["%.4g" % threshold]
    rows.append([in_markdown(label)] + cells + [
        _number(results[part].get("f1/" + label)) for part in parts])
  text = "## Labels\n\n" + _table(
      head + ["F1 on %s" % part for part in parts], rows)
  if len(trained.labels) > _MOST_LABELS:
    text += "\n\nand %d more." % (len(trained.labels) - _MOST_LABELS)
  if decision.is_by_text:
    return "%s\n\nLabels are chosen by %s." % (text, decision.describe())
  rule = "\n\nA label is predicted if its probability is at least its threshold"
  if decision.top_k:
    rule += ", up to %d labels per text" % decision.top_k
  if decision.always_one_label:
    rule += "; a text without any label gets the most probable one"
  kind = {"tune": "one that maximizes micro-F1 on dev",
          "tune_macro": "one that maximizes macro-F1 on dev",
          "tune_samples": "one that maximizes the mean F1 per text on dev",
          "tune_per_label": "tuned on dev, separately for each label"}.get(
              trained.settings["threshold_kind"], "fixed")
  return "%s%s. Thresholds: %s." % (text, rule, kind)


def _scores_section(results):
  parts = [part for part, _ in _RESULTS if results[part]]
  rows = []
  for key, title in _SCORES:
    if any(key in results[part] for part in parts):
      rows.append([title] + [
          _with_interval(results[part], key) for part in parts])
  if not rows:
    return "## Scores\n\nThe model was not evaluated."
  return ("## Scores\n\n"
          "%s\n\n"
          "In parentheses: 95%% bootstrap intervals over the "
          "texts." % _table(["score"] + parts, rows))


def _with_interval(result, key):
  text = _number(result.get(key))
  low, high = result.get(key + "_low"), result.get(key + "_high")
  if low is None or high is None:
    return text
  return "%s (%s to %s)" % (text, _number(low), _number(high))


def _data_section(folder, results):
  """How many texts the model has learned from and was measured on."""
  lines = []
  for part in ("train", "dev", "test"):
    count = results.get(part, {}).get("num_examples")
    path = os.path.join(folder, part + ".tf_record.json")
    if count is None and os.path.isfile(path):
      count = atomic_files.read_json(path).get("num_examples")
    if count is not None:
      lines.append("- %s: %s texts" % (part, "{:,}".format(int(count))))
  return "## Data\n\n" + "\n".join(lines) if lines else ""


def _settings_section(trained):
  settings, run = trained.settings, trained.settings.get("run") or {}
  rows = [["pooling", settings["pooling"]], ["loss", settings["loss"]],
          ["max_seq_length", settings["max_seq_length"]],
          ["do_lower_case", str(settings["do_lower_case"]).lower()],
          ["layers, width", "%d, %d" % (trained.bert_config.num_hidden_layers,
                                        trained.bert_config.hidden_size)]]
  rows += [[key, run[key]] for key in _SETTINGS if run.get(key) is not None]
  rows += [[key, value] for key, value in sorted(
      (settings.get("versions") or {}).items())]
  return "## Settings\n\n" + _table(
      ["setting", "value"], [[in_markdown(str(cell)) for cell in row]
                             for row in rows])


def _limits_section(trained):
  """What users of the model have to know."""
  length = trained.settings["max_seq_length"]
  long_text = {
      "windows": "In training, a longer text was read in windows of that many "
                 "tokens; truncating it gives different results.",
      "truncate_head": "Longer texts are truncated.",
  }.get(trained.settings["long_text"],
        "In training, a longer text was shortened with %s; cutting off its end "
        "instead gives different results." %
        trained.settings["long_text"])
  return (
      "## Limits\n\n"
      "- The model reads %d tokens. %s\n"
      "- Scores apply to texts like those it was evaluated on; on others they "
      "may be much lower.\n"
      "- The score of a label with few training examples says little.\n"
      "- The model reproduces the biases of the pre-trained encoder and of the "
      "training texts." % (length, long_text))


def _table(head, rows):
  lines = [head, ["---"] * len(head)] + rows
  return "\n".join("| %s |" % " | ".join(str(cell) for cell in line)
                   for line in lines)


def _number(value):
  return "" if value is None else "%.3f" % value
