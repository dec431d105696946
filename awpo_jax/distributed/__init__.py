"""Devices and processes: how state and batches are laid over them.

Start with `device_map.py`, the one way onto the devices, and with `sharding.py`
for the rules of a mesh.
"""
