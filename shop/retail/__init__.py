"""The import of UCI *Online Retail*, whose program is `shop.import_retail`. The domain uses none of this.

`reader` makes invoices of rows, `commands` makes commands of invoices, `sums` adds them up, `importer` sends them and
counts, `report` tells.
"""
