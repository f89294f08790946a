"""A small provider of payments to run the shop with: `python -m shop.payments`. It can be told to fail.

It stands for somebody else's service: it knows nothing of the shop, which calls it by its contract alone
(`shop.payments.v1`).
"""
