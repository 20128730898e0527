"""GitHub's REST API, as far as runners need it."""
