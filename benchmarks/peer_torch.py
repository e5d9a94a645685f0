# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers on PyTorch as a peer.

Training is the loop that its Trainer runs (AdamW, weight decay but on biases
and LayerNorm, linear schedule, clipping at 1), without what Trainer does beside
it, in its favor; with "sort", on our batches in our order.
"""

import os
import sys
import time

import numpy as np
import tokenizers
import torch
import transformers

from benchmarks import training_order
from benchmarks import work_items
from benchmarks.shared_texts import load_texts
from benchmarks.shared_texts import training_labels


class Peer(object):
  """See `worker`; settings: "threads", "sort", "compile"."""

  def __init__(self, settings):
    self._settings = settings
    torch.set_num_threads(settings["threads"])
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

  def versions(self):
    return {"python": sys.version.split()[0], "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__}

  def load(self, job):
    return {"predict": Prediction, "single": Single, "train": Training,
            "features": Features, "start": Single, "whole": Whole}[
                job["kind"]](job, self._settings)


class Classifier(torch.nn.Module):
  """`transformers.BertModel`, dropout and a linear head."""

  def __init__(self, job, num_labels=work_items.NUM_LABELS, head=True):
    super().__init__()
    folder = os.path.join(job["work_dir"], job["model"])
    self.pooling = job["pooling"]
    self.bert = transformers.BertModel.from_pretrained(
        os.path.join(folder, "hf"), attn_implementation="sdpa",
        add_pooling_layer=self.pooling == "pooler")
    self.dropout = torch.nn.Dropout(0.1)
    self.head = torch.nn.Linear(self.bert.config.hidden_size, num_labels)
    if head:
      weights = torch.from_numpy(np.load(
          os.path.join(folder, "head.npy"), allow_pickle=False))
      with torch.no_grad():
        self.head.weight.copy_(weights[:, :-1])
        self.head.bias.copy_(weights[:, -1])

  def forward(self, ids, mask):
    output = self.bert(input_ids=ids, attention_mask=mask)
    if self.pooling == "pooler":
      pooled = output.pooler_output
    elif self.pooling == "cls":
      pooled = output.last_hidden_state[:, 0]
    else:
      real = mask.unsqueeze(-1).float()
      pooled = (output.last_hidden_state * real).sum(1) / real.sum(1)
    return self.head(self.dropout(pooled))


def make_tokenizer(job):
  """Its fast tokenizer of the vocabulary, which works in threads."""
  tokenizer = tokenizers.BertWordPieceTokenizer(
      os.path.join(job["work_dir"], job["model"], "hf", "vocab.txt"))
  tokenizer.enable_truncation(job["max_seq_length"])
  return tokenizer


def encode(tokenizer, texts):
  return [row.ids for row in tokenizer.encode_batch(texts)]


def pad(rows):
  """(ids, mask) of rows, padded to the longest."""
  longest = max(map(len, rows))
  ids = np.zeros([len(rows), longest], np.int64)
  mask = np.zeros([len(rows), longest], np.int64)
  for i, row in enumerate(rows):
    ids[i, :len(row)] = row
    mask[i, :len(row)] = 1
  return torch.from_numpy(ids), torch.from_numpy(mask)


class Prediction(object):
  """Tokenizer and model over batches, in arrival order or sorted."""

  def __init__(self, job, settings):
    self._job, self._settings = job, settings
    self._texts = [text for text, _ in load_texts(job)]
    self._tokenizer = make_tokenizer(job)
    self._model = Classifier(job).eval()
    if settings.get("compile"):
      self._model = torch.compile(self._model, dynamic=True)
    self.says = "batches of %d, %s%s" % (
        job["batch_size"], "sorted by length" if settings.get("sort")
        else "arrival order", ", compiled" if settings.get("compile") else "")

  def predict(self, texts):
    rows = encode(self._tokenizer, texts)
    order = list(range(len(rows)))
    if self._settings.get("sort"):
      order.sort(key=lambda i: -len(rows[i]))
    out = np.zeros([len(rows), work_items.NUM_LABELS], np.float32)
    size = self._job["batch_size"]
    with torch.inference_mode():
      for start in range(0, len(order), size):
        batch = order[start:start + size]
        out[batch] = self._model(*pad([rows[i] for i in batch])).numpy()
    return out

  def outputs(self):
    return self.predict(self._texts[:self._job["checked"]])

  def run(self):
    self.predict(self._texts)

  def close(self):
    self._model = None


class Single(Prediction):
  """A call per text; the seconds of each are kept."""

  def run(self):
    each = []
    for text in self._texts:
      start = time.perf_counter()
      self.predict([text])
      each.append(time.perf_counter() - start)
    return each


class Features(object):
  """`encode_batch` of all texts, in the tokenizer's own threads."""

  def __init__(self, job, settings):
    self._job = job
    self._texts = [text for text, _ in load_texts(job)]
    self._tokenizer = make_tokenizer(job)
    self.says = "%d threads, ids in memory" % settings["threads"]

  def outputs(self):
    return encode(self._tokenizer, self._texts[:self._job["checked"]])

  def run(self):
    encode(self._tokenizer, self._texts)

  def close(self):
    pass


def grouped(lengths, order, batch_size):
  """Numbers by batch: sorted within 50 batches of a random order."""
  window, batches = 50 * batch_size, []
  for start in range(0, len(order), window):
    part = sorted(order[start:start + window], key=lambda i: -lengths[i])
    batches += [part[i:i + batch_size]
                for i in range(0, len(part), batch_size)]
  return batches


class Steps(object):
  """A model, its optimizer and its schedule."""

  def __init__(self, model, learning_rate, num_steps, num_warmup, compile_it):
    decayed = [p for name, p in model.named_parameters()
               if not name.endswith("bias") and "LayerNorm" not in name]
    known = set(map(id, decayed))
    rest = [p for p in model.parameters() if id(p) not in known]
    self.model = model.train()
    self._call = torch.compile(model, dynamic=True) if compile_it else model
    # Foreach kernels are for GPUs; the fused one is the fastest on a CPU.
    self._optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01},
         {"params": rest, "weight_decay": 0.0}], lr=learning_rate, eps=1e-6,
        fused=True)
    self._schedule = transformers.get_linear_schedule_with_warmup(
        self._optimizer, num_warmup, num_steps)
    self._loss = torch.nn.BCEWithLogitsLoss()

  def step(self, rows, labels):
    ids, mask = pad(rows)
    loss = self._loss(self._call(ids, mask), torch.from_numpy(labels))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    self._optimizer.step()
    self._schedule.step()
    self._optimizer.zero_grad()
    return loss.item()


class Training(object):
  """Steps over ids that were made before."""

  def __init__(self, job, settings):
    self._job = job
    self._rows = encode(make_tokenizer(job),
                        [text for text, _ in load_texts(job)])
    self._labels = training_labels(len(self._rows))
    self._steps = Steps(Classifier(job), 1e-5, 10 ** 9, 0,
                        settings.get("compile"))
    if settings.get("sort"):
      self._next = training_order.Steps([len(row) for row in self._rows],
                                        job["batch_size"]).next
    else:
      self._step = 0
      self._order = np.random.RandomState(1).permutation(len(self._rows))
      self._next = self._next_in_random_order
    self.says = "%s, dropout on, fused AdamW, clipping" % (
        "our batches in our order" if settings.get("sort") else "random order")

  def outputs(self):
    size = self._job["batch_size"]
    self._steps.model.eval()
    with torch.inference_mode():
      logits = self._steps.model(*pad(self._rows[:size]))
      losses = torch.nn.functional.binary_cross_entropy_with_logits(
          logits, torch.from_numpy(self._labels[:size]), reduction="none")
    self._steps.model.train()
    return [losses.mean(1).numpy()]

  def run(self):
    for _ in range(self._job["steps"]):
      batch = self._next()
      self._steps.step([self._rows[i] for i in batch], self._labels[batch])

  def _next_in_random_order(self):
    size = self._job["batch_size"]
    start = self._step * size % len(self._order)
    self._step += 1
    return self._order[start:start + size]

  def close(self):
    self._steps = None


class Whole(object):
  """Texts, features, all epochs, a checkpoint, F1 on dev: one `run`."""

  def __init__(self, job, settings):
    self._job, self._settings = job, settings
    self.says = ("grouped by length" if settings.get("sort")
                 else "random order")

  def run(self):
    from benchmarks import whole_run
    job = self._job
    data = whole_run.read(job["data_dir"])
    tokenizer = make_tokenizer(job)
    rows = {part: encode(tokenizer, data[part].texts) for part in data.parts}
    size = job["batch_size"]
    plan = whole_run.batches(len(rows["train"]), size, job["epochs"])
    if self._settings.get("sort"):
      lengths, rng = [len(row) for row in rows["train"]], np.random
      plan = [batch for epoch in range(job["epochs"])
              for batch in grouped(lengths, rng.RandomState(epoch).permutation(
                  len(lengths)), size)]
    torch.manual_seed(1)
    steps = Steps(Classifier(job, len(data.names), False), 3e-4, len(plan),
                  len(plan) // 10, self._settings.get("compile"))
    for batch in plan:
      steps.step([rows["train"][i] for i in batch],
                 data["train"].labels[batch])
    torch.save(steps.model.state_dict(),
               os.path.join(job["output_dir"], "model.pt"))
    steps.model.eval()
    order = sorted(range(len(rows["dev"])), key=lambda i: len(rows["dev"][i]))
    logits = np.zeros(data["dev"].labels.shape, np.float32)
    with torch.inference_mode():
      for start in range(0, len(order), 64):
        batch = order[start:start + 64]
        logits[batch] = steps.model(*pad(
            [rows["dev"][i] for i in batch])).numpy()
    return [whole_run.micro_f1(logits, data["dev"].labels)]

  def close(self):
    pass
