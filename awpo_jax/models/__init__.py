"""The causal language model in Flax, its weights, and its adapters.

Start with `decoder.py`; `config.py` says which Hugging Face models it is, and
`formats/` reads and writes their files.
"""
