"""The relay: it moves sealed messages between clients and can open none of them."""
