"""Pretrained encoders: the table of those that are known, their weights, and the one command that downloads them."""
