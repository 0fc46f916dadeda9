"""The bank: accounts, permissions and the ledger; it knows nothing of WebSockets."""
