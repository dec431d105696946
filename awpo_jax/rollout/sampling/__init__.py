"""Sampling answers inside compiled programs.

Start with `sampler.py`, which draws one batch; `decode_loop.py` is the loop
that every other sampler here shares.
"""
