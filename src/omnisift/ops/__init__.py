"""Tensor arithmetic that methods share: batches of ragged chunks, ranking groups, similarity, diversity, shares."""
