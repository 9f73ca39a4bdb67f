"""A frame that ends here: the inner service and its replies."""
