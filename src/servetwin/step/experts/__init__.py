"""Routed experts: which ones a step activates, and where they lie."""
