# SPDX-License-Identifier: Apache-2.0
"""Serving a trained model: what an export needs, and what checks it."""
