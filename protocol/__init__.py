"""Tellerwire's protocol: what travels between clients, relay and bank, and how it is checked.

A core without I/O. Nothing in this package opens a socket or a file, reads a clock or draws
randomness of its own accord: times and randomness are passed in, bytes come in, and values,
bytes or a named error come out. It imports neither Django nor any other package of this house.

``docs/protocol.md`` is the specification; where the two differ, one of them has a bug.
"""
