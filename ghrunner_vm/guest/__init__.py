"""How secrets reach a guest and what a guest may say (docs/guest-contract.md)."""
