"""Names of weights, resolved by transformers' own tables and a model without weights."""
