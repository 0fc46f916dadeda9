"""The commands of the person's program, by what they are about."""
