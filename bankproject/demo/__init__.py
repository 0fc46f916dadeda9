"""The demonstration: a relay, a bank and two people as real processes, on data of its own.

``python -m bankproject.demo`` plays the scenario and ends; with ``--stay`` it leaves everything
running and says where. It never touches another database: its folder is made for it and removed.
"""
