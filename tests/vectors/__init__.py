"""Test vectors of the protocol, and the program that makes them."""
