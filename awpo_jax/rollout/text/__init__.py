"""Prompts, chat templates and tokens, and what is read back from them.

Start with `prompts.py` (a task becomes tokens) and `tool_calls.py` (an answer
becomes calls).
"""
