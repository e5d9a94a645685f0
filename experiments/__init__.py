# SPDX-License-Identifier: Apache-2.0
"""Baselines and sweeps, run as `python -m experiments.NAME`."""
