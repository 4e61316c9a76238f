"""Weights that lie outside the accelerator: how their loads and computing overlap, and what should leave."""
