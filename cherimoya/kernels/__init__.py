"""Implementations of the Cheri block and the choice between them; imports torch alone (see README.md)."""
