"""Policies with which a cluster itself refuses what was not promoted, for controllers that verify attestations.

Each controller is one module with ``policy(admitted)``, which gives the object that the controller reads.
"""
