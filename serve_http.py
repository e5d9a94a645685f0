# SPDX-License-Identifier: Apache-2.0
"""Serves a trained directory, or an ONNX export, over HTTP on this machine.

  python serve_http.py --model_dir=DIR --port=8501

TensorFlow Serving's REST paths, /v1/label for texts, and a page to try it at /.
Stops on SIGTERM when what is in flight is done; SIGHUP loads a newer model and
the API keys. Needs the extra `serve` (granian and more). See docs/serving.md.
"""

import collections
import functools
import ipaddress
import os
import sys
import time

from absl import flags
from absl import logging

from multilabel.common import command_line


FLAGS = flags.FLAGS

# Flags that `open_model` is told.
_MODEL_FLAGS = ("model_dir", "max_batch_size", "device", "inter_op_threads",
                "intra_op_threads", "allow_older_checkpoint", "workers")
ModelOptions = collections.namedtuple("ModelOptions", _MODEL_FLAGS)


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Model"):
    flags.DEFINE_string("model_dir", None, "--output_dir of a training run, or "
                        "an ONNX export.")
    flags.DEFINE_string("model_name", "multilabel",
                        "NAME in /v1/models/NAME.")
    flags.DEFINE_integer("version", None,
        "Version of the model; default: the checkpoint's step.")
    flags.DEFINE_string("example", "Thank you, this is exactly what I was "
                        "looking for.", "Example text on the page.")
    flags.DEFINE_string("device", None,
        "Device, such as /gpu:0; default: TensorFlow's choice.")
    flags.DEFINE_bool("allow_older_checkpoint", False,
        "If the best (or newest) checkpoint is broken, serve the newest intact "
        "one.")
  with command_line.flag_group("Network"):
    flags.DEFINE_string("host", "127.0.0.1",
        "Address to listen on; 0.0.0.0: all addresses of this machine.")
    flags.DEFINE_integer("port", 8501, "Port to listen on; 0: any free port.")
    flags.DEFINE_string("api_key_file", None,
        "File with API keys, one per line; every request must have one of "
        "them.")
    flags.DEFINE_string("tls_certificate", None,
        "PEM file with the certificate, for HTTPS.")
    flags.DEFINE_string("tls_key", None, "PEM file with its private key.")
    flags.DEFINE_integer("workers", 1, "Number of processes, each with its own "
                                       "model and its share of the cores.")
  with command_line.flag_group("Batches"):
    flags.DEFINE_integer("max_batch_size", 32, "Maximum texts per batch.")
    flags.DEFINE_float("max_delay_ms", 2.0,
        "Maximum time to wait for more texts to fill a batch, in milliseconds.")
    flags.DEFINE_integer("max_queue", 512,
        "Maximum number of waiting texts; beyond it, requests get 503.")
    flags.DEFINE_integer("intra_op_threads", None,
        "Threads per operation; default: the cores divided by --workers.")
    flags.DEFINE_integer("inter_op_threads", None,
        "Parallel operations; default: TensorFlow's choice.")
  with command_line.flag_group("Limits"):
    flags.DEFINE_integer("max_body_bytes", 4 << 20,
        "Maximum bytes per request.")
    flags.DEFINE_integer("max_texts", 128, "Maximum texts per request.")
    flags.DEFINE_integer("max_characters", 20000,
        "Maximum characters per text.")
    flags.DEFINE_integer("max_words", 60,
        "Maximum words of a text to explain; each takes one run of the model.")
    flags.DEFINE_integer("max_connections", 4096,
        "Maximum concurrent connections per process; others wait.")
    flags.DEFINE_float("head_timeout", 10,
        "Timeout in seconds for the head of a request, and between requests on "
        "a connection.")
    flags.DEFINE_float("body_timeout", 30,
        "Timeout in seconds for the body of a request.")
    flags.DEFINE_float("request_timeout", 30,
        "Timeout in seconds for the response.")
    flags.DEFINE_float("grace_seconds", 20,
        "Seconds to finish requests in flight when the server is stopped.")
  with command_line.flag_group("Log"):
    flags.DEFINE_bool("log_requests", False,
        "Log one line per request, without its contents.")
    flags.DEFINE_bool("log_texts", False, "Log every text.")


def read_keys(path):
  """Reads the keys of a file, one per line.

  Args:
    path: str, or None for no keys.

  Returns:
    list of bytes.

  Raises:
    ValueError: the file cannot be read, or has no keys, or weak ones.
  """
  if path is None:
    return []
  try:
    with open(path, "rb") as reader:
      # Some editors of Windows begin a file with this mark.
      keys = reader.read().replace(b"\xef\xbb\xbf", b"", 1).split()
  except EnvironmentError as error:
    raise ValueError("--api_key_file %s cannot be read: %s." % (
        path, error.strerror))
  if not keys:
    raise ValueError("--api_key_file %s has no key; put one on each line." %
                     path)
  if min(map(len, keys)) < 16:
    raise ValueError(
        "--api_key_file %s has a key of less than 16 characters, which can be "
        "guessed; create one with `openssl rand -hex 32`." %
                     path)
  return keys


def check_flags(flag_values):
  """Raises ValueError for invalid flags."""
  if not flag_values.model_dir:
    raise ValueError("--model_dir must be given.")
  if not os.path.isdir(flag_values.model_dir):
    raise ValueError("model_dir %s is not a directory." % flag_values.model_dir)
  name = flag_values.model_name
  if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
    raise ValueError("--model_name %s may only contain letters, digits, _, - "
                     "and . characters." % name)
  for flag in ("workers", "max_batch_size", "max_queue", "max_body_bytes",
               "max_texts", "max_characters", "max_words", "max_connections"):
    if flag_values[flag].value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          flag, flag_values[flag].value))
  for flag in ("version", "inter_op_threads", "intra_op_threads"):
    value = flag_values[flag].value
    if value is not None and value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (flag, value))
  for flag in ("head_timeout", "body_timeout", "request_timeout"):
    if not 0 < flag_values[flag].value < 1e6:
      raise ValueError("--%s is %s; it must be seconds, more than 0." % (
          flag, flag_values[flag].value))
  for flag in ("grace_seconds", "max_delay_ms"):
    if not 0 <= flag_values[flag].value < 1e6:
      raise ValueError("--%s is %s; it must be 0 or more." % (
          flag, flag_values[flag].value))
  if not 0 <= flag_values.port < 65536:
    raise ValueError("--port is %d; it must be from 0 to 65535." %
                     flag_values.port)
  if flag_values.max_queue < flag_values.max_texts:
    raise ValueError("--max_queue is %d; it must be at least --max_texts (%d), "
                     "or a request of that size can never be served." % (
                         flag_values.max_queue, flag_values.max_texts))
  if (flag_values.tls_certificate is None) != (flag_values.tls_key is None):
    raise ValueError("--tls_certificate and --tls_key must be given together.")
  _check_certificate(flag_values.tls_certificate, flag_values.tls_key)


def _check_certificate(certificate, key):
  if certificate is None:
    return
  import ssl
  for flag, path in (("tls_certificate", certificate), ("tls_key", key)):
    if not os.path.isfile(path):
      raise ValueError("--%s %s: there is no such file." % (flag, path))
  try:
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        certificate, key, password=lambda: "")
  except (ssl.SSLError, EnvironmentError) as error:
    raise ValueError("--tls_certificate %s and --tls_key %s must be a "
                     "certificate and its key, without a password: %s." % (
                         certificate, key, error))


def _import_server():
  """Imports what the extra brings; ValueError with what to do without it."""
  try:
    from multilabel.serving import granian_server
    from multilabel.serving import worker
    return granian_server, worker
  except ImportError as error:
    if (error.name or "").split(".")[0] not in (
        "granian", "starlette", "anyio", "msgspec", "prometheus_client"):
      raise
    raise ValueError(
        "the server needs %s, which is not installed: pip install granian "
        "starlette msgspec prometheus_client." % error.name)


def open_model(options):
  """Opens the predictor of a folder; called where requests are served.

  Args:
    options: `ModelOptions`.
  """
  from multilabel.serving import worker
  import predict_onnx
  return predict_onnx.open_in_script(
      options.model_dir, batch_size=options.max_batch_size,
      device=options.device, inter_op_threads=options.inter_op_threads,
      intra_op_threads=options.intra_op_threads or (
          worker.share_of_cores(options.workers)),
      allow_older_checkpoint=options.allow_older_checkpoint)


def worker_options(worker, flag_values, loopback):
  """Returns the `worker.Options` that the flags say."""
  # By a name that a process started again finds; "__main__" may be another.
  import serve_http
  application = worker.http_app.Settings(
      flag_values.model_name, flag_values.example, flag_values.max_body_bytes,
      flag_values.body_timeout, flag_values.request_timeout,
      flag_values.max_words, max(1, flag_values.max_connections // 2), loopback,
      flag_values.log_requests, flag_values.log_texts)
  return worker.Options(
      functools.partial(serve_http.open_model, serve_http.ModelOptions(
          *[flag_values[name].value for name in _MODEL_FLAGS])),
      functools.partial(serve_http.read_keys, flag_values.api_key_file),
      flag_values.version, flag_values.max_texts, flag_values.max_characters,
      flag_values.max_batch_size, flag_values.max_delay_ms,
      flag_values.max_queue, flag_values.grace_seconds, flag_values.workers,
      application)


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; flags begin with --." % argv[1])
  started = time.time()
  check_flags(FLAGS)
  keys = read_keys(FLAGS.api_key_file)
  granian_server, worker = _import_server()
  port = granian_server.Port(FLAGS.host, FLAGS.port)
  loopback = ipaddress.ip_address(port.host.partition("%")[0]).is_loopback
  if not loopback and not keys:
    logging.warning(
        "Listening on %s without --api_key_file: anyone who can reach this "
        "address can use the server.", port.host)

  def say_ready():
    print("Serving %s at %s (ready after %.1f s)" % (
        FLAGS.model_name, port.url(FLAGS.tls_certificate is not None),
        time.time() - started))
    sys.stdout.flush()

  granian_server.run(
      functools.partial(worker.load, worker_options(worker, FLAGS, loopback)),
      port, granian_server.Settings(
          FLAGS.workers, FLAGS.max_connections, FLAGS.head_timeout,
          FLAGS.grace_seconds, FLAGS.tls_certificate, FLAGS.tls_key), say_ready)
  logging.info("Stopped.")


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
