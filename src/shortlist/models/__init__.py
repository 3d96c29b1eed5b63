"""Model folders: what they say (`read_card`), where they are (`resolve`), how they come (`fetch`), their health (`verify`)."""

from shortlist.models.card import ModelCard, read_card
from shortlist.models.fingerprint import fingerprint
from shortlist.models.registry import Available, address, available, fetch, home, resolve, verify

__all__ = ["Available", "ModelCard", "address", "available", "fetch", "fingerprint", "home", "read_card", "resolve", "verify"]
