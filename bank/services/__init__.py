"""What operators do to the bank's books outside the ledger: verbs, each with an actor.

Every verb runs in one transaction and writes the audit trail in it. What can't be done raises
``bank.errors.ChangeRefusedError`` and leaves everything as it was.
"""
