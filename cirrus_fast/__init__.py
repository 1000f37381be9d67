"""Sparse logistic regression on short-lived workers. The public names load on first use."""

from __future__ import annotations
