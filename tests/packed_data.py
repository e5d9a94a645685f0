# SPDX-License-Identifier: Apache-2.0
"""gzip data that are the same each time: no time of day is in them."""

import gzip
import io


def gzipped(data):
  """`gzip.compress` of bytes; may stand in the parameters of a test."""
  packed = io.BytesIO()
  with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as writer:
    writer.write(data)
  return packed.getvalue()
