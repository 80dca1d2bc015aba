"""Few-shot classification: data sets of labelled images, and the episodes drawn from them."""
