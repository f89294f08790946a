"""A small provider of payments for the shop: `python -m shop.payments`. It can be made to fail.

It stands for the service of another company: it does not know the shop, which calls it only by its contract
(`shop.payments.v1`).
"""
