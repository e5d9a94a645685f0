# SPDX-License-Identifier: Apache-2.0
"""Makes what all peers share: models in each peer's format, texts, data.

  python -m benchmarks.prepare --work_dir=DIR --models=encoder,base

In DIR, for each model: `hf/` (config.json, model.safetensors, vocab.txt),
`bert/` (the checkpoint that `hf_conversion` makes of it), `trained/` (the same
with a label head, as training leaves it), `tanh/` (that with the tanh form of
GELU, which is all that the original has) and `head.npy`. The encoder's weights
are the demo's where `--encoder_dir` is; all others are drawn with a seed.
`texts.json` holds texts with exactly that many tokens, cut from the demo's data
where that is, else made of words of the vocabulary. `data/` is the training
run's.
"""

import argparse
import io
import itertools
import json
import os
import random
import shutil
import struct
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks import work_items
import modeling
from multilabel.storage import hf_conversion
from multilabel.storage import trained_model
import tokenization


LABELS = ["label %d" % number for number in range(work_items.NUM_LABELS)]
VOCAB_SIZE = 30522


def write_text(path, text):
  with io.open(path, "w", encoding="utf-8") as writer:
    writer.write(text)


def write_safetensors(path, tensors):
  """Writes {name: float32 array}: a header of JSON, then the bytes."""
  header, start = {}, 0
  for name, value in tensors.items():
    header[name] = {"dtype": "F32", "shape": list(value.shape),
                    "data_offsets": [start, start + value.nbytes]}
    start += value.nbytes
  text = json.dumps(header).encode("utf-8")
  text += b" " * (-len(text) % 8)
  with open(path, "wb") as writer:
    writer.write(struct.pack("<Q", len(text)) + text)
    for value in tensors.values():
      writer.write(np.ascontiguousarray(value, np.float32).tobytes())


def random_tensors(shape, seed):
  """{Hugging Face's name: float32 array} of a BERT with drawn weights."""
  rng = np.random.RandomState(seed)
  width, inner = shape["hidden_size"], shape["intermediate_size"]

  def drawn(*size):
    return rng.standard_normal(size).astype(np.float32) * 0.02

  tensors = {}

  def dense(name, rows, columns):
    tensors[name + ".weight"] = drawn(columns, rows)
    tensors[name + ".bias"] = drawn(columns)

  def norm(name):
    tensors[name + ".weight"] = 1 + drawn(width)
    tensors[name + ".bias"] = drawn(width)

  for name, rows in (("word", VOCAB_SIZE), ("position", 512),
                     ("token_type", 2)):
    tensors["embeddings.%s_embeddings.weight" % name] = drawn(rows, width)
  norm("embeddings.LayerNorm")
  for number in range(shape["num_hidden_layers"]):
    scope = "encoder.layer.%d." % number
    for name in ("query", "key", "value"):
      dense(scope + "attention.self." + name, width, width)
    dense(scope + "attention.output.dense", width, width)
    norm(scope + "attention.output.LayerNorm")
    dense(scope + "intermediate.dense", width, inner)
    dense(scope + "output.dense", inner, width)
    norm(scope + "output.LayerNorm")
  dense("pooler.dense", width, width)
  return tensors


def make_hugging_face(folder, shape, vocab, seed):
  """Writes config.json, model.safetensors and vocab.txt."""
  os.makedirs(folder)
  write_text(os.path.join(folder, "vocab.txt"), vocab)
  write_text(os.path.join(folder, "config.json"), json.dumps(dict(
      shape, model_type="bert", architectures=["BertModel"],
      vocab_size=VOCAB_SIZE, hidden_act="gelu", hidden_dropout_prob=0.1,
      attention_probs_dropout_prob=0.1, initializer_range=0.02,
      layer_norm_eps=1e-12, max_position_embeddings=512, type_vocab_size=2,
      pad_token_id=0)))
  write_safetensors(os.path.join(folder, "model.safetensors"),
                    random_tensors(shape, seed))


def made_vocabulary():
  """A WordPiece vocabulary without any source: words, and pieces of them."""
  lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  lines += list("abcdefghijklmnopqrstuvwxyz")
  lines += ["##" + letter for letter in lines[5:]]
  syllables = ["".join(pair) for pair in itertools.product(
      "bcdfghklmnprstvw", "aeiou")]
  words = ("".join(parts) for parts in itertools.product(syllables, repeat=3))
  lines += itertools.islice(words, VOCAB_SIZE - len(lines))
  return "\n".join(lines) + "\n"


def make_trained(folder, bert_folder, seed, pooling):
  """Writes `trained/`, `tanh/` and head.npy beside a checkpoint's folder."""
  reader = tf.train.load_checkpoint(
      os.path.join(bert_folder, hf_conversion.CHECKPOINT))
  tensors = {name: reader.get_tensor(name)
             for name in reader.get_variable_to_shape_map()}
  config = modeling.BertConfig.from_json_file(
      os.path.join(bert_folder, hf_conversion.CONFIG_FILE))
  rng = np.random.RandomState(seed)
  head = rng.standard_normal(
      (work_items.NUM_LABELS, config.hidden_size + 1)).astype(np.float32) * 0.1
  np.save(os.path.join(folder, "head.npy"), head, allow_pickle=False)
  tensors["output_weights"], tensors["output_bias"] = head[:, :-1], head[:, -1]
  settings = {"do_lower_case": True, "max_seq_length": work_items.MIXED_LENGTH,
              "pooling": pooling, "loss": "sigmoid"}
  trained = os.path.join(folder, "trained")
  os.makedirs(trained)
  with tf.Graph().as_default(), tf.Session() as session:
    names = sorted(tensors) + ["global_step"]
    values = [tf.placeholder(tf.float32) for _ in names[:-1]]
    session.run(tf.raw_ops.SaveV2(
        prefix=os.path.join(trained, "model.ckpt-0"), tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=values + [tf.constant(0, tf.int64)]), {
            place: tensors[name] for place, name in zip(values, names)})
  tanh = os.path.join(folder, "tanh")
  os.makedirs(tanh)
  for name in os.listdir(trained):
    os.symlink(os.path.join("..", "trained", name), os.path.join(tanh, name))
  for target, approximate in ((trained, config.gelu_approximate),
                              (tanh, True)):
    config.gelu_approximate = approximate
    write_text(os.path.join(target, "checkpoint"),
               u'model_checkpoint_path: "model.ckpt-0"\n')
    trained_model.write(target, config, os.path.join(bert_folder, "vocab.txt"),
                    LABELS, settings)


def make_model(work_dir, name, encoder_dir, pooling, seed):
  """Makes one model, or finds it; returns where its weights are from."""
  folder = os.path.join(work_dir, name)
  is_demo = name == "encoder" and os.path.isdir(encoder_dir)
  origin = encoder_dir if is_demo else "random, seed %d" % seed
  stamp = "%s, pooling %s\n" % (origin, pooling)
  stamp_file = os.path.join(folder, "made.txt")
  if os.path.exists(stamp_file) and io.open(stamp_file).read() == stamp:
    return origin
  shutil.rmtree(folder, ignore_errors=True)
  hf_folder = os.path.join(folder, "hf")
  if is_demo:
    shutil.copytree(encoder_dir, hf_folder)
  else:
    vocab_file = os.path.join(encoder_dir, "vocab.txt")
    vocab = (io.open(vocab_file, encoding="utf-8").read()
             if os.path.exists(vocab_file) else made_vocabulary())
    make_hugging_face(hf_folder, work_items.SHAPES[name], vocab, seed)
  bert_folder = os.path.join(folder, "bert")
  hf_conversion.convert(hf_folder, bert_folder)
  make_trained(folder, bert_folder, seed, pooling)
  write_text(stamp_file, stamp)
  return origin


def corpus(data_dir, tokenizer, rng):
  """[(word, pieces)], in the order of the demo's texts where those are."""
  path = os.path.join(data_dir, "train.jsonl")
  if os.path.exists(path):
    with io.open(path, encoding="utf-8") as lines:
      words = [word for line in itertools.islice(lines, 4000)
               for word in json.loads(line)["text"].split()]
  else:
    known = [word for word in tokenizer.vocab if word.isalpha()]
    words = [rng.choice(known) for _ in range(40000)]
  pieces = {word: len(tokenizer.tokenize(word)) for word in set(words)}
  return [(word, pieces[word]) for word in words if pieces[word]]


def make_text(words, filler, tokens, rng):
  """A text of exactly that many tokens, [CLS] and [SEP] among them."""
  left, chosen = tokens - 2, []
  place = rng.randrange(len(words))
  while left > 0:
    word, pieces = words[place % len(words)]
    place += 1
    if pieces > left:
      word, pieces = filler, 1
    chosen.append(word)
    left -= pieces
  return u" ".join(chosen)


def make_texts(words, sizes, seed):
  """{set: list of (text, tokens)} of all works."""
  rng = random.Random(seed)
  filler = next(word for word, pieces in words if pieces == 1)
  lengths = {
      "short": work_items.lengths_of("short", sizes.short, seed),
      "mixed": work_items.lengths_of("mixed", sizes.mixed, seed),
      "train": work_items.lengths_of("short", 50 * 32, seed + 1),
      "base": [120] * 64,
      "features": work_items.lengths_of("short", sizes.features, seed + 2),
  }
  lengths.update(("single %d" % tokens, [tokens] * sizes.single)
                 for tokens in work_items.SINGLE_LENGTHS)
  return {name: [(make_text(words, filler, tokens, rng), tokens)
                 for tokens in lengths[name]] for name in sorted(lengths)}


def make_data(folder, data_dir, words, sizes, seed):
  """Writes train.jsonl, dev.jsonl and labels.txt of a training run."""
  os.makedirs(folder, exist_ok=True)
  if all(os.path.exists(os.path.join(data_dir, name)) for name in (
      "train.jsonl", "dev.jsonl", "labels.txt")):
    for name, count in (("train", sizes.whole_texts), ("dev",
                                                       sizes.whole_dev)):
      with io.open(os.path.join(data_dir, name + ".jsonl"),
                   encoding="utf-8") as lines:
        write_text(os.path.join(folder, name + ".jsonl"),
                   u"".join(itertools.islice(lines, count)))
    shutil.copyfile(os.path.join(data_dir, "labels.txt"),
                    os.path.join(folder, "labels.txt"))
    return data_dir
  rng = random.Random(seed + 3)
  filler = next(word for word, pieces in words if pieces == 1)
  for name, count in (("train", sizes.whole_texts), ("dev", sizes.whole_dev)):
    write_text(os.path.join(folder, name + ".jsonl"), u"".join(
        json.dumps({"id": "%s-%d" % (name, i),
                    "text": make_text(words, filler, tokens, rng),
                    "labels": rng.sample(LABELS, 1)}) + u"\n"
        for i, tokens in enumerate(
            work_items.lengths_of("short", count, seed + 4))))
  write_text(os.path.join(folder, "labels.txt"), u"\n".join(LABELS) + u"\n")
  return "random, seed %d" % seed


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--work_dir", required=True)
  parser.add_argument("--models", default="encoder")
  parser.add_argument("--encoder_dir", default="demo_work/encoder")
  parser.add_argument("--data_dir", default="demo_work/data")
  parser.add_argument("--pooling", default="pooler")
  parser.add_argument("--sizes", default="{}")
  parser.add_argument("--seed", type=int, default=1)
  options = parser.parse_args(argv)
  sizes = work_items.Sizes(**json.loads(options.sizes))
  os.makedirs(options.work_dir, exist_ok=True)
  origins = {name: make_model(options.work_dir, name, options.encoder_dir,
                              options.pooling, options.seed)
             for name in options.models.split(",")}
  tokenizer = tokenization.FullTokenizer(os.path.join(
      options.work_dir, options.models.split(",")[0], "hf", "vocab.txt"))
  words = corpus(options.data_dir, tokenizer, random.Random(options.seed))
  texts = make_texts(words, sizes, options.seed)
  write_text(os.path.join(options.work_dir, "texts.json"),
             json.dumps(texts, ensure_ascii=False))
  origins["data"] = make_data(
      os.path.join(options.work_dir, "data"), options.data_dir, words, sizes,
      options.seed)
  json.dump({"origins": origins, "lengths": {
      name: [tokens for _, tokens in rows] for name, rows in texts.items()}},
            sys.stdout)


if __name__ == "__main__":
  main()
