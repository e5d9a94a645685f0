# SPDX-License-Identifier: Apache-2.0
"""The targets by name, with their seeds and tokens.

A target is a function of bytes. It returns for input that is read correctly or
rejected in one sentence, and raises otherwise.
"""

import collections
import json
import struct

from robustness.fuzz import models
from robustness.fuzz import programs
from robustness.fuzz import readers
from robustness.fuzz import texts


# seeds: list of bytes, good input; tokens: list of bytes that mean something.
Target = collections.namedtuple("Target", ["run", "seeds", "tokens"])

_UNICODE = [text.encode("utf-8", "surrogatepass") for text in (
    "\u0301", "\u0323", "\u302e", "\u03a3", "\u0130", "\u2028", "\x85",
    "\u200b", "\u202e", "\ufeff", "\ufffd", "\ud800", "\u4e2d", "\uac00",
    "\U0001f600", "\U0002f800", "\U000e0001", "\U0010ffff", "\ufb01", "\u2260",
    "\xa0", "\u1b44", "\U0001d165", "\u0345")]
_JSON = [token.encode("ascii") for token in (
    "{", "}", "[", "]", '"', ":", ",", "null", "true", "1e999", "NaN", "-1",
    "0.5", "\\ud800", "\\u0000", '""', "9" * 30, "[" * 40, '{"a":' * 40,
    '"id"', '"text"', '"labels"', '"text_pair"', "\\n")]
_LINES = [b"\n", b"\r", b"\r\n", b"\0", b"\xef\xbb\xbf", b"\xff", b"\t", b" "]


def _dump(value):
  return json.dumps(value, ensure_ascii=False).encode("utf-8")


def _safetensors(tensors):
  header, data = {}, b""
  for name, (dtype, shape, content) in tensors.items():
    header[name] = {"dtype": dtype, "shape": shape,
                    "data_offsets": [len(data), len(data) + len(content)]}
    data += content
  text = _dump(header)
  return struct.pack("<Q", len(text)) + text + data


_CONFIG = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2,
           "num_attention_heads": 2, "intermediate_size": 32,
           "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
           "attention_probs_dropout_prob": 0.1, "type_vocab_size": 2,
           "max_position_embeddings": 64, "initializer_range": 0.02}
_HF_CONFIG = dict(_CONFIG, model_type="bert", architectures=["BertModel"],
                  position_embedding_type="absolute", layer_norm_eps=1e-12)
_ROW = {"input_ids": [2, 5, 3], "input_mask": [1, 1, 1],
        "segment_ids": [0, 0, 0]}

TARGETS = collections.OrderedDict([
    ("tokenizer", Target(
        texts.tokenize,
        [b"\0", b"\1unwanted, Running CAF\xc3\xa9!",
         b"\0" + u"\u4e2d\u6587 \u0391\u03a3 \uac00x".encode("utf-8"),
         b"\1" + b"want" * 60, b"\1a\xff\xfe b"],
        _UNICODE + [b"##", b"[UNK]", b"want", b" ", b"\0", b"\t", b"a" * 200])),
    ("delimited", Target(
        readers.read_delimited,
        [b"\0id,text,labels\n1,a b,\"x,y\"\n2,\"c \"\"d\"\"\",\n",
         b"\1text\ta\tb\nx\t0\t1\ny\t1\t0\n",
         b"\2text;label\r\nx;a\r\n", b"\0text,labels\n\"a\nb\",x\n\n"],
        _LINES + _UNICODE + [b'"', b'""', b",", b";", b"|", b",0,1", b"text",
                             b"labels", b"=cmd()", b"-1"])),
    ("jsonl", Target(
        readers.read_jsonl,
        [_dump({"text": "a", "labels": ["x", "y"], "id": "1"}) + b"\n" +
         _dump({"text": u"\u4e2d", "text_pair": "b", "labels": [], "id": 2}),
         b'{"text": "\\ud83d\\ude00", "labels": [" a ", "a"]}\r\n'],
        _JSON + _LINES + _UNICODE)),
    ("safetensors", Target(
        models.read_safetensors,
        [_safetensors({"a": ("F32", [2, 3], struct.pack("<6f", *range(6))),
                       "b": ("F16", [2], b"\0\x3c\0\xc0"),
                       "c": ("I64", [0], b"")}),
         _safetensors({"w": ("BF16", [], b"\x80\x3f")}),
         _safetensors({})],
        _JSON + [b'"F32"', b'"shape"', b'"dtype"', b'"data_offsets"',
                 b'"__metadata__"', b"4611686018427387904", b"[0,0]",
                 struct.pack("<Q", 2 ** 63), struct.pack("<f", float("nan"))])),
    ("config", Target(
        models.read_config,
        [b"\0" + _dump(_CONFIG), b"\1" + _dump(_HF_CONFIG),
         b"\2" + _dump({"threshold": [0.5, 1e-3], "top_k": None}),
         b"\3a\nb c\n" + u"\u4e2d\n".encode("utf-8"),
         b"\4" + _dump({"a": 1.5, "b": 2}), b"\4a\t1.5\nb\t2\n",
         b"\5[PAD]\n[UNK]\n[CLS]\n[SEP]\nab\n##c\n"],
        _JSON + _LINES + _UNICODE + [
            b'"hidden_size"', b'"vocab_size"', b'"__class__"', b'"_x"',
            b'"pooler_x"', b"1000000000", b'"gelu_new"', b'"model_type"',
            b"1_0"])),
    ("flags", Target(
        programs.parse_flags,
        [b"\0--do_train\n--data_dir=d\n--output_dir=o\n--learning_rate=3e-5\n"
         b"--bert_config_file=b\n--vocab_file=v",
         b"\1--model_dir=m\n--threshold=0.5\ntext", b"\2--hf_dir=a",
         b"\1--model_dir=m\n--input_file=-\n--output_file=o.tsv\n"
         b"--spreadsheet_safe"],
        [b"\n--", b"=", b"--no", b"nan", b"inf", b"-1", b"1e309", b"9" * 400,
         b"--loss=focal", b"--threshold=tune", b"--do_eval", b"--top_k=",
         b"--num_train_epochs=", b"--train_batch_size=", b"--max_runtime=",
         b"--random_seed=", b"--dev_fraction=", b"--stride=", b"--undefok=",
         b"--output_file=", b"--input_file=", b"--input_format=csv", b"--"] +
        _UNICODE)),
    ("http_bodies", Target(
        programs.parse_body,
        [b"\0" + _dump({"instances": [_ROW, _ROW]}),
         b"\0" + _dump({"signature_name": "ids_only", "inputs": [[2, 5, 3]]}),
         b"\0" + _dump({"signature_name": "text",
                        "instances": [{"b64": "YQ=="}]}),
         b"\1" + _dump({"signature_name": "classify",
                        "context": {"segment_ids": [0, 0]},
                        "examples": [{"input_ids": [2, 3]}]}),
         b"\2" + _dump({"texts": ["a", ["b", "c"]], "threshold": 0.5,
                        "top_k": 1, "always_one_label": True}),
         b"\3" + _dump({"text": "a b", "label": "a"})],
        _JSON + [b'"b64"', b'"instances"', b'"inputs"', b'"segment_ids"',
                 b'"input_mask"', b'"context"', b'"input_ids"', b'"/w=="',
                 b"\xef\xbb\xbf", b"\xff"])),
])
