"""The controlled benchmark: recipes, packed evaluation, evidence and result pages, all methods on equal terms."""
