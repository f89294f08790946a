"""Parts of the import of UCI *Online Retail*, whose program is `shop.import_retail`. The domain uses none of them.

`reader` makes invoices of rows, `commands` makes commands of invoices, `sums` adds invoices up, `importer` sends
commands and counts their outcomes, `report` prints the result.
"""
