# SPDX-License-Identifier: Apache-2.0
"""Measurements; each is run as `python -m benchmarks.NAME`."""
