"""What an environment may say: the files that a promotion writes, and what people may add beside them."""
