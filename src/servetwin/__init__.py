"""Servetwin: a digital twin of LLM serving clusters."""
