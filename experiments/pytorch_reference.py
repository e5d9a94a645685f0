# SPDX-License-Identifier: Apache-2.0
"""The same recipe in PyTorch, to compare this project's scores with.

  python -m experiments.pytorch_reference --data_dir=demo_work/data \\
      --task_name=attack_tactics --hf_dir=demo_work/encoder --pooling=mean \\
      --learning_rate=3e-4 --head_learning_rate=5e-3 --init_bias_from_prior \\
      --max_seq_length=64 --num_train_epochs=4 --seeds=3 --output_dir=DIR

fine-tunes a Hugging Face BERT directory (config.json, model.safetensors,
vocab.txt) with the flags that run_multilabel_classifier.py calls by the same
names, as a PyTorch program usually does: transformers' model, tokenizers'
WordPiece, AdamW with weight decay 0.01 except on biases and LayerNorm, linear
warmup and decay, gradients clipped to norm 1, batches in random order, padded
to their longest text. Two details are PyTorch's own: AdamW's epsilon is 1e-8
(here 1e-6), and the decay begins at the end of warmup from the peak (here the
rate after warmup is the one that a decay from the start would have reached).

DIR gets seed-N/test_predictions.jsonl and eval_predictions.jsonl, with true
labels, for `experiments.compare_runs`, and seed-N/results.json; a seed that
has finished with the same settings is not run again.

Needs torch, transformers and tokenizers (extra `bench`).
"""

import collections
import json
import os
import time

from absl import flags
from absl import logging
import numpy as np

from experiments import baseline_tfidf
from experiments import prediction_output
from experiments import result_table
from multilabel.common import atomic_files
from multilabel.common import command_line
import processors


FLAGS = flags.FLAGS

POOLINGS = ("pooler", "cls", "mean")
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0

# Flags that decide a result; they are kept beside it.
_SETTINGS = (
    "data_dir", "task_name", "hf_dir", "do_lower_case", "max_seq_length",
    "pooling", "max_train_examples", "train_batch_size", "learning_rate",
    "head_learning_rate", "init_bias_from_prior", "num_train_epochs",
    "warmup_proportion")


def define_flags():
  """Defines this program's flags; called where the script starts."""
  with command_line.flag_group("Data and model"):
    flags.DEFINE_string("data_dir", None, "Folder of the data.")
    flags.DEFINE_string("task_name", "jsonl", "Format of the data: %s." %
                        ", ".join(sorted(processors.PROCESSORS)))
    flags.DEFINE_string("hf_dir", None, "Hugging Face BERT folder.")
    flags.DEFINE_string("output_dir", None, "Folder for the results.")
    flags.DEFINE_bool("do_lower_case", True, "Lower-case the text.")
    flags.DEFINE_integer("max_seq_length", 128, "Maximum tokens per text.")
    flags.DEFINE_enum("pooling", "pooler", list(POOLINGS),
                      "Vector that represents a text.")
  with command_line.flag_group("Training"):
    flags.DEFINE_integer("max_train_examples", 0,
                         "Train on the first N examples; 0: on all.")
    flags.DEFINE_integer("train_batch_size", 32, "Examples per step.")
    flags.DEFINE_float("learning_rate", 5e-5, "Peak learning rate.")
    flags.DEFINE_float("head_learning_rate", None,
                       "Peak learning rate of the label head; default: "
                       "--learning_rate.")
    flags.DEFINE_bool("init_bias_from_prior", False,
        "Initialize the head's bias to the log-odds of each label in train.")
    flags.DEFINE_float("num_train_epochs", 3.0,
        "Passes over the training data.")
    flags.DEFINE_float("warmup_proportion", 0.1,
        "Fraction of the steps used for warmup.")
    flags.DEFINE_integer("random_seed", 42, "First seed.")
    flags.DEFINE_integer("seeds", 1, "Number of runs, with consecutive seeds.")
    flags.DEFINE_integer("threads", 0, "PyTorch threads; 0: PyTorch's default.")


def check_flags(flag_values):
  """Raises ValueError for invalid flags."""
  for name in ("data_dir", "hf_dir", "output_dir"):
    if not flag_values[name].value:
      raise ValueError("--%s must be given." % name)
  for name in ("config.json", "model.safetensors", "vocab.txt"):
    path = os.path.join(flag_values.hf_dir, name)
    if not os.path.isfile(path):
      raise ValueError("--hf_dir: there is no %s." % path)
  for name in ("train_batch_size", "seeds"):
    if flag_values[name].value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          name, flag_values[name].value))
  if flag_values.max_seq_length < 3:
    raise ValueError("--max_seq_length is %d; it must be at least 3 for [CLS], "
                     "a token and [SEP]."
                     % flag_values.max_seq_length)


# --- Model ------------------------------------------------------------------


def make_model(bert, num_labels, pooling, bias):
  """The encoder with a head of one logit per label.

  Args:
    bert: `transformers.BertModel`.
    num_labels: int, L.
    pooling: one of `POOLINGS`.
    bias: float [L], where the head's bias starts.

  Returns:
    `torch.nn.Module`: (input_ids, mask), int64 [B, T] -> logits [B, L].
  """
  import torch

  class MultilabelBert(torch.nn.Module):
    """Encoder, pooling, dropout, linear head."""

    def __init__(self):
      super().__init__()
      self.bert = bert
      self.dropout = torch.nn.Dropout(bert.config.hidden_dropout_prob)
      self.head = torch.nn.Linear(bert.config.hidden_size, num_labels)
      torch.nn.init.trunc_normal_(self.head.weight, std=0.02)
      self.head.bias.data = torch.tensor(bias, dtype=torch.float32)

    def forward(self, input_ids, mask):
      output = self.bert(input_ids=input_ids, attention_mask=mask)
      if pooling == "pooler":
        vector = output.pooler_output
      elif pooling == "cls":
        vector = output.last_hidden_state[:, 0]
      else:
        weights = mask[:, :, None].float()  # [B, T, 1]
        vector = ((output.last_hidden_state * weights).sum(1) /
                  weights.sum(1))
      return self.head(self.dropout(vector))

  return MultilabelBert()


def parameter_groups(model, learning_rate, head_learning_rate):
  """Groups for AdamW: biases and LayerNorm do not decay: list of dict."""
  groups = []
  for is_head, rate in ((False, learning_rate), (True, head_learning_rate)):
    for decays in (True, False):
      groups.append({
          "lr": rate, "weight_decay": WEIGHT_DECAY if decays else 0.0,
          "params": [
              parameter for name, parameter in model.named_parameters()
              if name.startswith("head.") == is_head and
              (name.endswith("bias") or "LayerNorm" in name) != decays]})
  return groups


def head_bias(labels, from_prior):
  """Where the head's bias starts, float [L].

  Args:
    labels: [N, L] of 0 and 1, of train.
    from_prior: bool; False: at 0.
  """
  if not from_prior:
    return np.zeros(labels.shape[1])
  counts = np.clip(labels.sum(axis=0, dtype=np.float64), 0.5,
                   len(labels) - 0.5)
  return np.log(counts / (len(labels) - counts))


def pad(rows):
  """Pads lists of ids: int64 tensors input_ids and mask, [B, longest]."""
  import torch

  longest = max(len(row) for row in rows)
  input_ids = np.zeros((len(rows), longest), np.int64)
  mask = np.zeros_like(input_ids)
  for i, row in enumerate(rows):
    input_ids[i, :len(row)] = row
    mask[i, :len(row)] = 1
  return torch.from_numpy(input_ids), torch.from_numpy(mask)


# --- Training and prediction ------------------------------------------------


def train(model, rows, labels, settings, seed):
  """Fine-tunes a model in place.

  Args:
    model: what `make_model` returns.
    rows: list of N lists of ids.
    labels: float32 [N, L].
    settings: dict with the names of `_SETTINGS`.
    seed: int.
  """
  import torch
  import transformers

  size = settings["train_batch_size"]
  steps_per_epoch = -(-len(rows) // size)
  num_steps = max(1, int(steps_per_epoch * settings["num_train_epochs"]))
  rate = settings["learning_rate"]
  optimizer = torch.optim.AdamW(parameter_groups(
      model, rate, settings["head_learning_rate"] or rate))
  schedule = transformers.get_linear_schedule_with_warmup(
      optimizer, int(num_steps * settings["warmup_proportion"]), num_steps)
  loss_fn = torch.nn.BCEWithLogitsLoss()
  order = np.random.RandomState(seed)
  started, losses = time.time(), collections.deque(maxlen=50)
  model.train()
  for step in range(num_steps):
    if step % steps_per_epoch == 0:
      places = order.permutation(len(rows))
    start = step % steps_per_epoch * size
    batch = places[start:start + size]
    loss = loss_fn(model(*pad([rows[i] for i in batch])),
                   torch.from_numpy(labels[batch]))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
    if (step + 1) % 50 == 0 or step + 1 == num_steps:
      logging.info("step %d/%d  %.0f s  loss %.4f", step + 1, num_steps,
                   time.time() - started, sum(losses) / len(losses))


def predict(model, rows, num_labels, batch_size=64):
  """Probabilities, float32 [N, L]; texts of similar length share a batch."""
  import torch

  model.eval()
  out = np.empty((len(rows), num_labels), np.float32)
  order = np.argsort([len(row) for row in rows], kind="stable")
  with torch.no_grad():
    for start in range(0, len(rows), batch_size):
      batch = order[start:start + batch_size]
      out[batch] = torch.sigmoid(model(*pad([rows[i] for i in batch]))).numpy()
  return out


def encode(part, settings):
  """Token ids with [CLS] and [SEP]: list of lists of int."""
  import tokenizers

  tokenizer = tokenizers.BertWordPieceTokenizer(
      os.path.join(settings["hf_dir"], "vocab.txt"),
      lowercase=settings["do_lower_case"])
  tokenizer.enable_truncation(settings["max_seq_length"])
  return [encoding.ids for encoding in tokenizer.encode_batch(part.texts)]


def run_seed(seed, data, rows, settings, output_dir):
  """Trains with one seed and writes its results; or finds them.

  Args:
    seed: int.
    data: (label_names, train, dev, test) of `baseline_tfidf.load_data`.
    rows: lists of ids of train, dev and test.
    settings: dict.
    output_dir: str, folder of this seed.

  Returns:
    dict: "scores" -> what `baseline_tfidf.score` returns; "seconds".
  """
  import torch
  import transformers

  path = os.path.join(output_dir, "results.json")
  if os.path.exists(path):
    found = atomic_files.read_json(path)
    if found["settings"] == settings:
      logging.info("seed %d: found in %s", seed, output_dir)
      return found
    raise ValueError("%s is from a run with other settings; name another "
                     "--output_dir." % path)
  label_names, train_part, dev, test = data
  labels = train_part.labels.astype(np.float32)
  torch.manual_seed(seed)
  bert = transformers.BertModel.from_pretrained(
      settings["hf_dir"], add_pooling_layer=settings["pooling"] == "pooler")
  model = make_model(bert, len(label_names), settings["pooling"], head_bias(
      labels, settings["init_bias_from_prior"]))
  logging.info("seed %d: %d texts, %d labels", seed, len(rows[0]),
               len(label_names))
  started = time.time()
  train(model, rows[0], labels, settings, seed)
  seconds = time.time() - started
  probabilities = [predict(model, part, len(label_names)) for part in rows[1:]]
  os.makedirs(output_dir, exist_ok=True)
  for name, part, values in zip(("eval", "test"), (dev, test), probabilities):
    prediction_output.write(
        os.path.join(output_dir, name + "_predictions.jsonl"), part.ids,
        part.shown, label_names, values >= 0.5, part.labels != 0, values)
  scores = baseline_tfidf.score(test, probabilities[1], dev, probabilities[0],
                                label_names)
  result = {"settings": settings, "seed": seed, "seconds": round(seconds, 1),
            "versions": {"torch": torch.__version__,
                         "transformers": transformers.__version__},
            "scores": scores}
  atomic_files.write_text(path, json.dumps(result, indent=2) + "\n")
  return result


def format_results(results):
  """The table over all seeds: list of lines."""
  lines = ["%d seeds, %s s of training, test, mean +- standard deviation" % (
      len(results), ", ".join("%.0f" % result["seconds"]
                              for result in results)), ""]
  table = [["threshold", "micro-F1", "macro-F1", "mAP"]]
  for kind, title in (("fixed", "0.5"), ("tuned", "tuned on dev"),
                      ("tuned_per_label", "tuned per label")):
    table.append([title] + [result_table.format_score(
        result_table.mean_and_deviation(
            [result["scores"][kind][name] for result in results]))
                            for name in baseline_tfidf.HEADLINE])
  return lines + result_table.align(table)


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; flags begin with --." %
                     argv[1])
  check_flags(FLAGS)
  try:
    import tokenizers  # noqa: F401  pylint: disable=unused-import
    import torch
    import transformers
  except ImportError as error:
    raise RuntimeError("%s; the PyTorch reference needs the extra `bench`" %
                       error)
  transformers.utils.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  if FLAGS.threads:
    torch.set_num_threads(FLAGS.threads)
  settings = {name: FLAGS[name].value for name in _SETTINGS}
  label_names, train_part, dev, test = baseline_tfidf.load_data(
      FLAGS.data_dir, FLAGS.task_name)
  if FLAGS.max_train_examples:
    train_part = baseline_tfidf.Part(
        *[values[:FLAGS.max_train_examples] for values in train_part])
  rows = [encode(part, settings) for part in (train_part, dev, test)]
  results = [run_seed(seed, (label_names, train_part, dev, test), rows,
                      settings,
                      os.path.join(FLAGS.output_dir, "seed-%d" % seed))
             for seed in range(FLAGS.random_seed,
                               FLAGS.random_seed + FLAGS.seeds)]
  print("\n".join(format_results(results)))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
