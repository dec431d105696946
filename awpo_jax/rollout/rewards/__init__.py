"""What an answer earns: the outcome reward, and who asks for both rewards.

Start with `scoring.py`, which scores a batch; `toolrl.py` is the default
outcome reward and `judges/` grades the reasoning.
"""
